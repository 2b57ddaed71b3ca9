"""Editing real pictures: what inversion is for.

Two methods are a few lines, and stand in :mod:`ddim_tutorial.editing.methods` beside the others:
SDEdit (Meng et al. 2021, arXiv:2108.01073) is ``add_noise`` to some t, then ``sample`` from there
with the new prompt; "invert, then another prompt" is ``invert_exact``, then ``sample`` with the new
prompt's model.
"""

from .attention import Attention, attention_maps
from .edit_friendly import EditFriendly, invert_edit_friendly, replay
from .flow_edit import flow_edit
from .local_blend import blend_mask, blended
from .methods import METHODS, Scene
from .null_text import NullText, invert_null_text, null_text_model
from .prompt_to_prompt import Edit, prompt_to_prompt, refine, replace, reweight
from .structure import self_similarity, structure_distance
from .textual_inversion import LearnedToken, learn_token
from .tokens import places

__all__ = [
    "METHODS",
    "Attention",
    "Edit",
    "EditFriendly",
    "LearnedToken",
    "NullText",
    "Scene",
    "attention_maps",
    "blend_mask",
    "blended",
    "flow_edit",
    "invert_edit_friendly",
    "invert_null_text",
    "learn_token",
    "null_text_model",
    "places",
    "prompt_to_prompt",
    "refine",
    "replace",
    "replay",
    "reweight",
    "self_similarity",
    "structure_distance",
]
