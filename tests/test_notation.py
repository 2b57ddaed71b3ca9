r"""The DDPM/DDIM dictionary proved with sympy from its own TeX, and the code held to the symbol
table."""

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
import sympy
import torch
from diffusers import DDIMScheduler

import ddim_tutorial
from ddim_tutorial import ddim_sigma, linear, notation
from ddim_tutorial.notation import DDPM_DDIM, DIALECTS, RATIO, SYMBOLS, convert, find, translate

FOLDER = Path(ddim_tutorial.__file__).parent
CORE = ["schedule", "peers", "predict", "sampling", "solvers", "guidance"]
CORE += [f"inversion.{path.stem}" for path in sorted(FOLDER.glob("inversion/[a-z]*.py"))]
TABLES = [f"notation.{path.stem}" for path in sorted(FOLDER.glob("notation/[a-z]*.py"))]

# both papers speak of bar alpha_t < bar alpha_s, with s = t - 1; every letter below is written
# through them
a_t, a_s, eta = sympy.symbols("a_t a_s eta", positive=True)
x_0, x_t, x_s, eps = sympy.symbols("x_0 x_t x_s eps", real=True)
SIGMA2 = eta**2 * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)  # DDIM Eq. 16, squared
COMMON = {"x_0": x_0, "x_t": x_t, "x_{t-1}": x_s, r"\epsilon_\theta": eps, r"\epsilon": eps}
LETTERS = {
    "ddpm": COMMON
    | {
        r"\bar\alpha_{t-1}": a_s,
        r"\bar\alpha_t": a_t,
        r"\alpha_t": a_t / a_s,
        r"\beta_t": 1 - a_t / a_s,
    },
    "ddim": COMMON | {r"\alpha_{t-1}": a_s, r"\alpha_t": a_t, r"\sigma_t^2": SIGMA2.subs(eta, 1)},
    "code": {
        "alpha_bar_t": a_t,
        "alpha_bar_s": a_s,
        "x_0": x_0,
        "x_t": x_t,
        "x_s": x_s,
        "eps": eps,
        "eps_hat": eps,
        "sigma": sympy.sqrt(SIGMA2.subs(eta, 1)),
    },
}


def read_tex(tex, letters):
    """The little TeX of the table as a sympy expression: letters, \\frac, \\sqrt, products by
    juxtaposition."""
    names = {}
    for i, letter in enumerate(sorted(letters, key=len, reverse=True)):
        names[f"v{i}"] = letters[letter]
        tex = re.sub(re.escape(letter) + r"(?![a-z_^])", f" v{i} ", tex)
    inner = r"\{([^{}]*)\}"
    while "\\" in tex:
        before = tex
        tex = re.sub(r"\\sqrt" + inner, r" sqrt(\1) ", tex)
        tex = re.sub(r"\\frac" + inner + inner, r" ((\1)/(\2)) ", tex)
        assert tex != before, f"cannot read {tex}"
    tex = re.sub(r"(v\d+|\))\s*(?=v\d|\(|sqrt)", r"\1*", tex)
    return eval(tex, {"sqrt": sympy.sqrt, **names})


def same(a, b):
    """Equal for every 0 < a_t < a_s < 1: as roots of positive numbers, in the parameters p, q > 0
    that make them so."""
    p, q = sympy.symbols("p q", positive=True)
    level_s = 1 / (1 + p)
    difference = (a - b).subs({a_s: level_s, a_t: level_s / (1 + q)}, simultaneous=True)
    return sympy.simplify(sympy.powdenest(sympy.factor(difference), force=True)) == 0


def test_the_reader_reads():
    seen = read_tex(r"\frac{1}{\sqrt{\alpha_t}} (x_t - 2*\epsilon)", LETTERS["ddim"])
    assert sympy.simplify(seen - (x_t - 2 * eps) / sympy.sqrt(a_t)) == 0
    assert not same(a_t, a_s) and not same(sympy.sqrt(1 - a_t), sympy.sqrt(1 - a_s))


@pytest.mark.parametrize("row", DDPM_DDIM, ids=lambda row: row.quantity)
def test_ddpm_row_equals_ddim_row_equals_code(row):
    ddpm, ddim = read_tex(row.ddpm, LETTERS["ddpm"]), read_tex(row.ddim, LETTERS["ddim"])
    assert same(ddpm, ddim)
    assert same(ddpm, eval(row.code, {"sqrt": sympy.sqrt, **LETTERS["code"]}))


def test_eta_one_is_the_posterior_of_ddpm():
    """q(x_s | x_t, x_0) by Bayes from q(x_t | x_s) and q(x_s | x_0): variance (DDPM Eq. 7) and
    mean."""
    beta = 1 - a_t / a_s
    precision = (1 - beta) / beta + 1 / (1 - a_s)
    variance = SIGMA2.subs(eta, 1)
    assert sympy.simplify(1 / precision - variance) == 0
    assert ddim_sigma(0.3, 0.6, 1.0) ** 2 == pytest.approx(
        float(variance.subs({a_t: 0.3, a_s: 0.6}))
    )
    bayes = (sympy.sqrt(1 - beta) * x_t / beta + sympy.sqrt(a_s) * x_0 / (1 - a_s)) / precision
    noise = (x_t - sympy.sqrt(a_t) * x_0) / sympy.sqrt(1 - a_t)
    assert same(bayes, sympy.sqrt(a_s) * x_0 + sympy.sqrt(1 - a_s - variance) * noise)


def test_sigma_hat_is_ddpms_larger_variance():
    """sigma-hat^2 = 1 - a_t / a_s is beta_t, and larger than the posterior's by (1 - a_t) / (1 -
    a_s)."""
    assert sympy.simplify((1 - a_t / a_s) / SIGMA2.subs(eta, 1) - (1 - a_t) / (1 - a_s)) == 0


# --- the translator -------------------------------------------------------------------------------


def test_examples_in_docstrings():
    result = doctest.testmod(notation.translator)
    assert result.failed == 0 and result.attempted >= 3


@pytest.mark.parametrize(
    "name, source, target, wanted",
    [
        (r"\alpha_t", "ddim", "ddpm", r"\bar\alpha_t"),
        (r"\alpha_t", "ddpm", "ddim", r"\alpha_t / \alpha_{t-1}"),
        (r"\bar{\alpha}_t", "ddpm", "ddim", r"\alpha_t"),
        ("alphas_cumprod", "ldm/diffusers", "ddpm", r"\bar\alpha_t"),
        ("alphas", "ldm/diffusers", "here", RATIO),
        ("alpha_bar_t", "here", "ldm/diffusers", "alphas_cumprod"),
        ("pred_xstart", "ldm/diffusers", "here", "x0_hat"),
        ("std_dev_t", "ldm/diffusers", "ddim", r"\sigma_t(\eta)"),
        ("guidance_scale", "ldm/diffusers", "here", "scale"),
    ],
)
def test_translations(name, source, target, wanted):
    assert translate(name, source, target) == wanted


def test_a_name_means_one_thing_in_its_dialect():
    for dialect in DIALECTS:
        names = [name for symbol in SYMBOLS for name in symbol.names(dialect)]
        assert len(names) == len(set(names))
        for symbol in SYMBOLS:
            for name in symbol.names(dialect):
                assert find(name, dialect) is symbol
                for target in DIALECTS:
                    if symbol.names(target):
                        assert find(translate(name, dialect, target), target) is symbol


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: translate("alpha_t", "dddm", "ddpm"), "dddm.*choose one of here, ddpm"),
        (lambda: translate("alpha_t", "ddim", "dddm"), "dddm.*choose one of here, ddpm"),
        (lambda: translate("gamma", "ddim", "ddpm"), "gamma.*its names are"),
        (lambda: translate("scale", "here", "ddpm"), "ddpm.*has no name for scale"),
        (lambda: convert([0.5], "x_0", "here", "betas", "ldm/diffusers"), "x_0"),
        (lambda: convert([0.5], "betas", "ldm/diffusers", "x_t", "ddim"), "x_t"),
    ],
)
def test_unknown_names_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_values_agree_with_diffusers():
    scheduler = DDIMScheduler()
    betas, cumprod = scheduler.betas.double(), scheduler.alphas_cumprod.double()
    for name, wanted in [
        ("alphas_cumprod", cumprod),
        ("alphas", scheduler.alphas.double()),
        ("betas", betas),
    ]:
        seen = convert(betas, "betas", "ldm/diffusers", name, "ldm/diffusers")
        torch.testing.assert_close(seen, wanted, rtol=1e-6, atol=0)
    previous = convert(betas, "betas", "ldm/diffusers", "alphas_cumprod_prev", "ldm/diffusers")
    torch.testing.assert_close(
        previous, torch.cat([torch.ones(1).double(), cumprod[:-1]]), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("code", ["alpha_bar_t", RATIO, "beta_t"])
def test_values_come_back_from_every_dialect(code, dialect):
    alpha_bar = linear().alpha_bar
    name = translate(code, "here", dialect)
    there = convert(alpha_bar, "alpha_bar_t", "here", name, dialect)
    torch.testing.assert_close(
        convert(there, name, dialect, "alpha_bar_t", "here"), alpha_bar, rtol=1e-12, atol=0
    )


def test_tables_have_a_row_each():
    for text, rows in [(notation.render(), SYMBOLS), (notation.render_ddpm_ddim(), DDPM_DDIM)]:
        lines = text.splitlines()
        cells = {len(re.split(r"(?<!\\)\|", line)) for line in lines}
        assert len(lines) == len(rows) + 2 and len(cells) == 1
    assert r"`alpha_bar_t`, `ab_t`" in notation.render()


def test_columns_can_be_chosen():
    text = notation.render([find("alpha_bar_t")], ["code", "DDIM"])
    assert text.splitlines()[0] == "| code | DDIM |"
    assert text.splitlines()[2] == r"| `alpha_bar_t`, `ab_t` | $\alpha_t$ |"
    fraction = notation.render([find("beta_t")], ["DDIM"]).splitlines()[2]
    assert fraction == r"| $1 - \frac{\alpha_t}{\alpha_{t-1}}$ |"
    with pytest.raises(ValueError, match=r"columns: got .'colour'.*wanted names of"):
        notation.render(columns=["colour"])
    assert notation.render_ddpm_ddim(DDPM_DDIM[:1], ["source"]).splitlines()[0] == "| source |"
    with pytest.raises(ValueError, match=r"columns: got .+ wanted names of"):
        notation.render_ddpm_ddim(columns=["letter"])


def test_a_notebook_shows_the_table():
    text = notation.render()
    assert text._repr_markdown_() == text == repr(text)


def test_one_letter_for_one_thing():
    """A letter has one row; those of the latent model are there; z is a latent, w is not used."""
    letters = [symbol.paper for symbol in SYMBOLS]
    assert len(letters) == len(set(letters))
    assert {"z_0", "z_t", "c", r"\kappa", r"\mathcal E", r"\mathcal D"} <= set(letters)
    assert not {"z", "w", "w + 1"} & set(letters)


def test_homonyms_are_names_with_two_meanings():
    found = notation.homonyms()
    assert found[r"\alpha_t"] == {"ddpm": RATIO, "ddim": "alpha_bar_t"}
    for name, meant in found.items():
        assert {dialect: translate(name, dialect, "here") for dialect in meant} == meant
    assert "x_0" not in found and "alphas_cumprod" not in found


def test_the_chooser_answers_from_the_table():
    reading, word, answer = notation.chooser().children
    assert (reading.value, word.value) == ("ddim", r"\alpha_t")
    assert "alphas_cumprod" in answer.value and r"ddpm: $\bar\alpha_t$" in answer.value
    reading.value = "ddpm"
    word.value = r"\alpha_t"
    assert "<code>alphas</code>" in answer.value and "alphas_cumprod" not in answer.value
    reading.value, word.value = "here", "scale"
    assert "ddpm: no name" in answer.value


# --- the code speaks the table's language ---------------------------------------------------------

# names that are not symbols of the field: what a function is given to work with or to work on
PLAIN = {
    "self",
    "model",
    "schedule",
    "scheduler",
    "generator",
    "spacing",
    "like",
    "shape",
    "device",
    "dtype",
    "method",
    "tol",
    "max_iter",
    "conditional",
    "unconditional",
    "condition",
    "null_condition",
    "log_prob",
    "eps_time",
    "noise_std",
    "x0_image",
    "xt_image",
    "alpha_bar",
    "betas",
    "beta_first",
    "beta_last",
    "beta_max",
    "offset",
    "name",
    "value",
    "low",
    "high",
    "x",
    "y",
    "x_T",
    "a",
    "b",
    "weight",
    "seeds",
    # of solvers and inversion
    "grid",
    "rule",
    "steps",
    "order",
    "gamma",
    "memory",
    "patience",
    "evaluate",
    "per_step",
    "sampler",
    "inversion",
    "pair",
    "mix",
    "alternate",
    "on_step",
    "step",
    "up",
    "warm",
    "by_step",
    "answer",
    "prediction",
    "z",
    "c",
}
TABLE = {name for symbol in SYMBOLS for name in symbol.names("here")}


# how a docstring that is all formula spells an argument
SPELT = {"x_0": "x_0", "x_t": "x_t", "x_T": "x_T", "scale": "scale"} | {
    "eta": r"\eta",
    "eps": r"\epsilon",
    "ab_t": r"\bar\alpha_t",
    "ab_s": r"\bar\alpha_s",
}


def source(module):
    return FOLDER / f"{module.replace('.', '/')}.py"


def functions(module):
    for name, thing in vars(importlib.import_module(f"ddim_tutorial.{module}")).items():
        if (
            inspect.isfunction(thing)
            and thing.__module__ == f"ddim_tutorial.{module}"
            and not name.startswith("_")
        ):
            yield name, thing


@pytest.mark.parametrize("module", CORE)
def test_arguments_are_symbols_of_the_table(module):
    for name, function in functions(module):
        unknown = set(inspect.signature(function).parameters) - TABLE - PLAIN
        assert not unknown, (
            f"{module}.{name}: {unknown} are neither in the symbol table nor plain words"
        )


@pytest.mark.parametrize("module", CORE)
def test_docstrings_name_every_tensor(module):
    """A symbol that a public function takes is spelt in its docstring, or in that of a function it
    refers to."""
    for name, function in functions(module):
        text = inspect.getdoc(function) or ""
        assert text, f"{module}.{name} has no docstring"
        if re.search(r":func:|arguments as for|cf\.", text):
            continue
        for argument in set(inspect.signature(function).parameters) & set(SPELT):
            found = re.search(rf"\b{argument}\b", text) or SPELT[argument] in text
            assert found, f"the docstring of {module}.{name} does not say what {argument} is"


@pytest.mark.parametrize("module", [*CORE, "analytic", "noise"])
def test_forbidden_spellings(module):
    """No prev and next, no bare alpha: a step goes from t to s, and alpha_bar_t is spelt out. Only
    the two functions that give other libraries' names back may use those."""
    tree = ast.parse(source(module).read_text())
    tree.body = [
        n
        for n in tree.body
        if getattr(n, "name", "") not in ("ldm_buffers", "ddim_sampling_parameters")
    ]
    names = {getattr(n, "id", getattr(n, "arg", "")) or "" for n in ast.walk(tree)}
    bad = {
        n
        for n in names
        if re.search(r"(^|_)(prev|previous|next|xstart|alphas|abar)($|_)|^alpha_t$", n)
    }
    assert not bad - {
        "next",
        "alphas_cumprod",
    }  # the builtin, and the attribute of a diffusers scheduler


@pytest.mark.parametrize("module", [*CORE, *TABLES, "analytic", "noise"])
def test_no_docstring_lost_a_backslash(module):
    r"""\theta, \bar, \frac, \nabla, \alpha in a string that is not raw are a tab, a backspace, a
    form feed, ..."""
    assert not re.search(r"[\x00-\x08\x0b-\x1f\t]", "".join(strings(source(module))))


def strings(path):
    constants = (
        n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)
    )
    return [value for value in constants if isinstance(value, str)]
