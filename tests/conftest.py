"""Types and shapes are enforced while testing; every test starts from one seed and can ask for a
device."""

from jaxtyping import install_import_hook

# First of all, before anything imports the package: its jaxtyping annotations are then checked by
# beartype. An int may stand where a float is annotated (PEP 484).
hook = install_import_hook(
    "ddim_tutorial", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

import pytest  # noqa: E402
import torch  # noqa: E402

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True)
def seed() -> int:
    torch.manual_seed(0)
    return 0


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=CUDA)])
def device(request) -> torch.device:
    return torch.device(request.param)
