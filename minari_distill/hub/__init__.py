"""Synsets on the Hugging Face Hub: one repository holds several, for Minari, for datasets and for minari_distill.

    README.md                         the card; `configs` in its front matter, the newest synset is the default
    namespace_metadata.json           Minari's list of the datasets in the repository
    NAME/{data,synset}/…              a synset as `Synset.save` writes it; NAME is "hopper-distilled-v0"
    card/NAME/{states,learning-curve}.png

`address.py` reads hf:// addresses, `calls.py` repeats or explains what fails, `remote.py` looks at a repository,
`upload.py` and `download.py` are the two directions, `card.py` writes the card.
"""

from minari_distill.hub.address import HubAddress
from minari_distill.hub.download import fetch
from minari_distill.hub.upload import Pushed, push

__all__ = ["HubAddress", "Pushed", "fetch", "push"]
