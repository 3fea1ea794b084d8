"""The inner loop: behavioural cloning of K students on the synset, and its exact adjoint."""

from minari_distill.inner.loop import InnerLoop

__all__ = ["InnerLoop"]
