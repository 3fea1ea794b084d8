"""A strip of distilled states, rendered by MuJoCo.

It runs in a process of its own, as a script that needs only Gymnasium: which OpenGL works on a machine without a
screen shows only by trying, and one that does not can take its process down.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 200  # pixels of one state's square
SECONDS = 60.0  # for one attempt


def render_strip(synset: Any, path: Path, n: int = 6, *, follow: bool = False) -> bool:
    """Draw n states of a synset side by side as a PNG, where its environment and this machine can.

    Args:
        synset: A `Synset`; n of its states are taken at even distances.
        path: The PNG to write.
        n: Number of states.
        follow: Draw below each state the one that follows its action.

    Returns:
        Whether it was written.
    """
    from minari_distill.env_specs import read_env_spec  # above, it would be the script's too

    text = synset.source.eval_env_spec or synset.source.env_spec
    try:
        if not text or "mujoco" not in str(json.loads(text).get("entry_point")):
            return False
        spec = read_env_spec(text).to_json()
    except Exception:  # a spec is somebody else's, and reading one imports the environment's module
        return False
    chosen = np.linspace(0, len(synset) - 1, min(n, len(synset))).round().astype(int)
    work = json.dumps(
        {
            "spec": spec,
            "observations": synset.observations[chosen].tolist(),
            "actions": synset.actions[chosen].tolist() if follow else None,
            "path": str(path),
        }
    )
    for library in opengl_libraries():
        try:
            subprocess.run(
                [sys.executable, "-P", __file__],  # -P: the modules beside this one are not for it
                input=work.encode(),
                env=os.environ | {"MUJOCO_GL": library},
                capture_output=True,
                check=True,
                timeout=SECONDS,
            )
        except (subprocess.SubprocessError, OSError):
            continue
        return path.is_file()
    return False


def opengl_libraries() -> list[str]:
    """What to try in turn: what MUJOCO_GL says, or what needs no screen."""
    given = os.environ.get("MUJOCO_GL")
    return [given] if given else ["egl", "osmesa"]


def _render(spec: str, observations: list[list[float]], actions: list[list[float]] | None, path: str) -> None:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec
    from PIL import Image

    env = gymnasium.make(
        EnvSpec.from_json(spec), render_mode="rgb_array", width=SIDE, height=SIDE, disable_env_checker=True
    )
    env.reset(seed=0)
    robot: Any = env.unwrapped
    nq, nv = robot.model.nq, robot.model.nv
    hidden = nq + nv - len(observations[0])  # leading positions that the observation leaves out
    frames: list[Any] = []
    following: list[Any] = []
    for i, observation in enumerate(np.array(observations)):
        qpos, qvel = robot.init_qpos.copy(), observation[nq - hidden :]
        qpos[hidden:] = observation[: nq - hidden]
        robot.set_state(qpos, qvel)
        # Some environments clip velocities, so only the positions must come back.
        seen = robot._get_obs()[: nq - hidden]
        if not np.allclose(seen, observation[: nq - hidden], atol=1e-4):
            raise ValueError("this environment's observations are no plain positions and velocities")
        frames.append(np.array(env.render()))
        if actions is not None:
            env.step(np.array(actions[i], dtype=np.float32))
            following.append(np.array(env.render()))
    for frame in (*frames, *following):  # a white edge keeps neighbours apart
        for edge in (frame[:2], frame[-2:], frame[:, :2], frame[:, -2:]):
            edge[:] = 255
    rows = [np.concatenate(row, axis=1) for row in (frames, following) if row]
    Image.fromarray(np.concatenate(rows)).save(path, format="PNG")


if __name__ == "__main__":
    _render(**json.load(sys.stdin))
