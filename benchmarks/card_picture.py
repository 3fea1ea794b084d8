"""The picture of a dataset card in docs/hub.md: the demo's synset pushed to the tests' Hub, its card in a browser.

    minari-distill demo && python -m benchmarks.card_picture demo/hopper-distilled-v0 docs/images/card.png

It needs Chromium, and MuJoCo's rendering for the strip of states.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.hub_server import TOKEN, HubServer

STYLE = """
body { font: 15px/1.5 "DejaVu Sans", sans-serif; color: #1f2328; width: 860px; margin: 24px auto; }
h1, h2 { border-bottom: 1px solid #d1d9e0; padding-bottom: .3em; }
table { border-collapse: collapse; margin-bottom: 16px; }
td, th { border: 1px solid #d1d9e0; padding: 5px 12px; }
code { font: 13px "DejaVu Sans Mono", monospace; background: #eff1f3; padding: .15em .35em; border-radius: 5px; }
pre { background: #f6f8fa; padding: 12px; border-radius: 6px; overflow: hidden; }
pre code { background: none; padding: 0; }
img { max-width: 100%; }
.front { background: #fff7e6; }
"""


def main(synset_id: str, picture: Path, repo_id: str = "me/hopper-synsets") -> None:
    """Push, render the card's front matter and the synset's own section as HTML, take the picture."""
    with HubServer() as hub, tempfile.TemporaryDirectory() as temporary:
        os.environ |= {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": temporary,
        }
        import minari_distill as md  # huggingface_hub reads the endpoint when it is imported

        name = "hopper-medium-replay-distilled-v0"
        md.load_synset(synset_id).push_to_hub(repo_id, name=name)
        folder = Path(temporary) / "card"
        for path, content in hub.files(repo_id).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        _, front, text = (folder / "README.md").read_text().split("---\n", 2)
        about, section = text.split("<!-- minari-distill: usage")[0], text[text.index(f"\n## {name}") :]
        (folder / "card.html").write_text(_html(front, about + section))
        picture.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *("--window-size=920,2050", f"--screenshot={picture}", str(folder / "card.html")),
            ],
            check=True,
            capture_output=True,
        )
    _crop(picture)


def _html(front: str, text: str) -> str:
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(text)
    style = f"<meta charset='utf-8'><style>{STYLE}</style>"
    return f"{style}<pre class='front'><code>{front}</code></pre>{body}"


def _crop(picture: Path) -> None:
    """Cut off the empty rest of the page, and keep few colours: a picture of text."""
    from PIL import Image, ImageChops

    image = Image.open(picture).convert("RGB")
    box = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
    image.crop((0, 0, image.width, box[3] + 24 if box else image.height)).quantize(128).save(
        picture, optimize=True
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).absolute())
