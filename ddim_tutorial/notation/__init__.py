r"""The symbol table as data, and a translator between the three dialects of the field.

The same letter means different things in different papers: :math:`\alpha_t` is one step's signal in
DDPM (Ho et al. 2020, arXiv:2006.11239) and the cumulative product in DDIM (Song et al. 2021,
arXiv:2010.02502); the code of LDM and diffusers writes ``alphas`` and ``alphas_cumprod``. This
package's own names are the dialect ``"here"``.
"""

from .chooser import chooser
from .dictionary import DDPM_DDIM, RATIO, Row
from .render import render, render_ddpm_ddim
from .symbols import DIALECTS, SYMBOLS, Symbol
from .translator import convert, find, from_alpha_bar, homonyms, to_alpha_bar, translate

__all__ = [
    "DDPM_DDIM",
    "DIALECTS",
    "RATIO",
    "SYMBOLS",
    "Row",
    "Symbol",
    "chooser",
    "convert",
    "find",
    "from_alpha_bar",
    "homonyms",
    "render",
    "render_ddpm_ddim",
    "to_alpha_bar",
    "translate",
]
