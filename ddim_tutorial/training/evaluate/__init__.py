"""How good the bundled models are: ``python -m ddim_tutorial.training.evaluate WHAT``.

Fréchet distances here are taken between features of the model's own clean classifier, so they
compare with each other and with the train-to-test distance beside them, never with distances
between Inception features.

All is computed in float32, unless ``--precision bf16`` asks for the networks under autocast; what
is stored says which it was. Nothing depends on what the processor would prefer.
"""

from ddim_tutorial.metrics import frechet

__all__ = ["frechet"]
