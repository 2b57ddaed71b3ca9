"""The bundled text-to-image model: emoji at 64 x 64 in three styles, a latent diffusion model in
Stable Diffusion's format (AutoencoderKL, CLIPTextModel, UNet2DConditionModel, DDIMScheduler), small
enough for two processor cores.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 \
             @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0
    python -m ddim_tutorial.training.emoji data --packages .   # runs/emoji/data.safetensors
    python -m ddim_tutorial.training.emoji autoencoder         # runs/emoji/vae
    python -m ddim_tutorial.training.emoji diffusion           # runs/emoji/diffusion; also trains
    the tokenizer python -m ddim_tutorial.training.emoji export              #
    ddim_tutorial/zoo/emoji, from the last checkpoint

A training command that was stopped goes on from its last checkpoint when it is started again. On a
fresh machine, ``diffusion --init ddim_tutorial/zoo/emoji`` goes on from the exported weights
(without the optimiser's state). ``--compile`` saves a fifth of the time of a diffusion step on two
cores, after two minutes of compiling. Where the machine does other work as well,
``OMP_WAIT_POLICY=PASSIVE`` keeps waiting threads from starving each other; alone, the training is a
quarter slower with it.
"""

import argparse
import io
import json
import tarfile
import unicodedata
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from ddim_tutorial.grids import from_uint8
from ddim_tutorial.predict import add_noise
from ddim_tutorial.schedule import scaled_linear
from ddim_tutorial.training.loop import Settings, finished, fit, mixed_precision

RUN = Path("runs/emoji")
ZOO = Path(__file__).parents[1] / "zoo" / "emoji"
SIZE = 64
TOKENS = 24
SCHEDULE = scaled_linear()
STYLES = ("noto", "twemoji", "fluent")
# where a style's picture of the hex code lies inside its package
PICTURES = {
    "noto": ("emoji-datasource-google", "img/google/64/{}.png"),
    "twemoji": ("emoji-datasource-twitter", "img/twitter/64/{}.png"),
    "fluent": ("@lobehub/fluent-emoji-3d", "assets/{}.webp"),
}
NAMES = ("emojibase-data", "en/data.json")
# the pictures' own licences; the packages' licence fields speak of their code
LICENCES = {
    "emoji-datasource-google": "Noto Emoji pictures (Google): Apache-2.0",
    "emoji-datasource-twitter": "Twemoji pictures (Twitter and contributors): CC BY 4.0",
    "@lobehub/fluent-emoji-3d": "Fluent Emoji pictures (Microsoft): MIT",
    "emojibase-data": "names and tags (Miles Johnson; Unicode CLDR): MIT",
}

# --- which objects --------------------------------------------------------------------------------
# Kept: animals, food, travel, activities, objects (emojibase groups 3 to 7) that a person can tell
# apart and name at 64 pixels, and these of the smileys (group 0). People, clock faces and
# near-doubles are left out.
GROUPS = (3, 4, 5, 6, 7)
SMILEYS = """grinning face; face with tears of joy; upside-down face; winking face; smiling face with halo;
smiling face with hearts; smiling face with heart-eyes; star-struck; face blowing a kiss; face with tongue;
money-mouth face; thinking face; zipper-mouth face; neutral face; sleeping face; face with medical mask;
face with thermometer; face with head-bandage; nauseated face; hot face; cold face; exploding head; cowboy hat face;
partying face; smiling face with sunglasses; nerd face; face with monocle; flushed face; loudly crying face;
face screaming in fear; enraged face; smiling face with horns; skull; pile of poo; clown face; ogre; goblin; ghost;
alien; alien monster; robot; see-no-evil monkey; love letter; heart with arrow; heart with ribbon; broken heart;
heart on fire; red heart; pink heart; orange heart; yellow heart; green heart; blue heart; purple heart; brown heart;
black heart; white heart; kiss mark; hundred points; collision; speech balloon; dizzy"""
DROPPED = """guide dog; service dog; tiger face; horse face; cow face; pig face; ox; water buffalo; boar; camel; rat;
front-facing baby chick; wing; black bird; dove; mouse; rabbit; cricket; cockroach; fly; white flower; rosette;
blossom; empty nest; leaf fluttering in wind; fallen leaf; herb; sheaf of rice; hyacinth; microbe; dragon; whale;
melon; leafy green; beans; tamale; flatbread; stuffed flatbread; falafel; shallow pan of food; bowl with spoon;
cut of meat; rice cracker; cooked rice; roasted sweet potato; oden; moon cake; shortcake; custard; clinking beer mugs;
pouring liquid; mate; fork and knife; teacup without handle; amphora; pot of food;
globe showing Europe-Africa; globe showing Asia-Australia; map of Japan; mountain; national park; desert;
building construction; derelict house; house with garden; houses; Japanese post office; post office; bank; hotel;
love hotel; convenience store; department store; foggy; cityscape at dusk; sunrise; night with stars;
sunrise over mountains; railway car; bullet train; train; light rail; station; tram; monorail; tram car;
mountain railway; oncoming bus; trolleybus; minibus; oncoming police car; oncoming taxi; oncoming automobile;
articulated lorry; motor boat; ferry; passenger ship; airplane departure; airplane arrival; small airplane;
suspension railway; aerial tramway; motorized wheelchair; horizontal traffic light; motorway; hourglass not done;
timer clock; twelve o'clock; twelve-thirty; one o'clock; one-thirty; two o'clock; two-thirty; three o'clock;
three-thirty; four o'clock; four-thirty; five o'clock; five-thirty; six o'clock; six-thirty; seven o'clock;
seven-thirty; eight o'clock; eight-thirty; nine o'clock; nine-thirty; ten o'clock; ten-thirty; eleven o'clock;
eleven-thirty; new moon; waxing crescent moon; first quarter moon; waxing gibbous moon; waning gibbous moon;
last quarter moon; waning crescent moon; first quarter moon face; last quarter moon face; sun behind small cloud;
sun behind large cloud; sun behind rain cloud; fog; milky way; umbrella with rain drops; snowman without snow;
water wave; comet; shooting star; pine decoration; tanabata tree; moon viewing ceremony; reminder ribbon;
admission tickets; sports medal; 2nd place medal; 3rd place medal; softball; rugby football; cricket game;
field hockey; lacrosse; flying disc; goal net; heart suit; flower playing cards; sparkler; running shirt;
martial arts uniform; knot; woman's clothes; clutch bag; purse; woman's sandal; flat shoe; hair pick; prayer beads;
sari; one-piece swimsuit; safety vest; speaker low volume; speaker medium volume; loudspeaker; bell with slash;
musical notes; musical score; level slider; control knobs; mobile phone with arrow; telephone receiver; low battery;
trackball; optical disk; film frames; camera with flash; magnifying glass tilted right; open book;
notebook with decorative cover; ledger; notebook; page with curl; rolled-up newspaper; bookmark tabs; label;
yen banknote; pound banknote; receipt; chart increasing with yen; e-mail; incoming envelope; envelope with arrow;
outbox tray; inbox tray; closed mailbox with lowered flag; open mailbox with raised flag;
open mailbox with lowered flag; black nib; pen; memo; card index dividers; open file folder; spiral notepad;
spiral calendar; card index; card file box; chart decreasing; round pushpin; linked paperclips; locked with pen;
locked with key; unlocked; hammer and pick; hammer and wrench; white cane; link; chains; petri dish; drop of blood;
lotion bottle; crutch; funeral urn; hamsa; ring buoy; bento box; diya lamp; long drum; postal horn; wheel; oil drum;
bellhop bell; seat; rock; wood; brick; flag in hole; tear-off calendar; umbrella on ground"""

# what people say instead; the first alias of an object stands in for its name in part of the
# captions
ALIASES = {
    "airplane": ["plane", "aeroplane"],
    "alarm clock": ["clock"],
    "alien monster": ["space invader"],
    "artist palette": ["palette", "paint palette"],
    "automobile": ["car"],
    "beer mug": ["beer", "glass of beer"],
    "bicycle": ["bike"],
    "birthday cake": ["cake"],
    "clapper board": ["film clapper"],
    "clown face": ["clown"],
    "closed mailbox with raised flag": ["mailbox"],
    "computer mouse": ["mouse"],
    "deciduous tree": ["tree"],
    "delivery truck": ["truck", "lorry"],
    "desktop computer": ["computer"],
    "doughnut": ["donut"],
    "droplet": ["water drop", "drop of water"],
    "ear of corn": ["corn", "maize"],
    "eggplant": ["aubergine"],
    "enraged face": ["angry face"],
    "envelope": ["letter", "mail"],
    "evergreen tree": ["pine tree", "fir tree"],
    "face with tears of joy": ["laughing face"],
    "fire engine": ["fire truck"],
    "flying saucer": ["ufo"],
    "french fries": ["fries"],
    "glasses": ["eyeglasses", "spectacles"],
    "glass of milk": ["milk"],
    "globe showing americas": ["globe", "earth"],
    "graduation cap": ["graduation hat"],
    "grinning face": ["happy face", "smiley"],
    "hamburger": ["burger", "cheeseburger"],
    "high voltage": ["lightning bolt", "lightning"],
    "high-speed train": ["train"],
    "honeybee": ["bee"],
    "hot beverage": ["coffee", "cup of coffee", "cup of tea"],
    "hot pepper": ["chili pepper"],
    "hourglass done": ["hourglass"],
    "house": ["home"],
    "jack-o-lantern": ["pumpkin"],
    "joker": ["playing card"],
    "lady beetle": ["ladybug", "ladybird"],
    "laptop": ["laptop computer"],
    "light bulb": ["lightbulb"],
    "locked": ["lock", "padlock"],
    "loudly crying face": ["crying face"],
    "man's shoe": ["shoe"],
    "magnifying glass tilted left": ["magnifying glass"],
    "microphone": ["mic"],
    "mobile phone": ["phone", "smartphone", "cell phone"],
    "military medal": ["medal"],
    "mouse face": ["mouse head"],
    "pile of poo": ["poop"],
    "piñata": ["pinata"],
    "police car light": ["siren"],
    "pool 8 ball": ["billiard ball"],
    "rabbit face": ["bunny", "rabbit"],
    "racing car": ["race car"],
    "red heart": ["heart"],
    "ringed planet": ["saturn", "planet"],
    "running shoe": ["sneaker"],
    "sailboat": ["boat", "sailing boat"],
    "sauropod": ["dinosaur"],
    "ship": ["cruise ship"],
    "snow-capped mountain": ["mountain"],
    "soccer ball": ["football"],
    "soft ice cream": ["ice cream cone"],
    "speaker high volume": ["speaker"],
    "spouting whale": ["whale"],
    "sport utility vehicle": ["suv"],
    "t-rex": ["tyrannosaurus"],
    "t-shirt": ["shirt"],
    "telephone": ["old telephone"],
    "television": ["tv"],
    "vertical traffic light": ["traffic light"],
    "video game": ["game controller", "gamepad"],
    "videocassette": ["cassette", "cassette player", "vhs tape"],
    "wine glass": ["wine", "glass of wine"],
    "wrapped gift": ["gift", "present"],
}

# --- data -----------------------------------------------------------------------------------------


class Emoji(NamedTuple):
    """The data file. images (N, 3, 64, 64) uint8; objects (N,) int64 into ``names``; styles (N,)
    int64 into STYLES; split (N,) int64: 0 training, 1 this style of the object is held out, 2 the
    object is held out in all styles."""

    images: Tensor
    objects: Tensor
    styles: Tensor
    split: Tensor
    names: list[str]
    tags: list[list[str]]
    packages: dict[str, dict[str, str]]

    def captions(self, rows: Iterable[int] | None = None) -> list[str]:
        """ "STYLE emoji of NAME" for the given rows (None: all), the caption that the evaluation
        asks for."""
        rows = range(len(self.images)) if rows is None else rows
        return [caption(STYLES[self.styles[i]], self.names[self.objects[i]]) for i in rows]


class Package:
    """An npm package, unpacked or as the .tgz that ``npm pack`` writes: ``package[path]`` is a
    file's content."""

    def __init__(self, folder: Path, name: str):
        stem = name.removeprefix("@").replace("/", "-")
        found = sorted(
            [
                *folder.glob(f"{stem}-[0-9]*"),
                *folder.glob(f"node_modules/{name}"),
                *folder.glob(name),
            ]
        )
        if not found:
            raise FileNotFoundError(
                f"{folder}: no package {name} in it (neither {stem}-VERSION.tgz nor a folder); "
                f"run `npm pack {name}@VERSION` there, with the version at the top of {__name__}"
            )
        if len(found) > 1:
            raise ValueError(
                f"{folder}: {', '.join(path.name for path in found)} are all {name}; leave one of"
                " them: another version is another data set"
            )
        path = found[0]
        if path.is_dir():
            root = path / "package" if (path / "package").is_dir() else path
            self._files: dict[str, Path | bytes] = {
                p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()
            }
        else:
            with tarfile.open(path) as tar:
                self._files = {
                    member.name.split("/", 1)[1]: tar.extractfile(member).read()
                    for member in tar
                    if member.isfile()
                }

    def __contains__(self, path: str) -> bool:
        return path in self._files

    def __getitem__(self, path: str) -> bytes:
        content = self._files[path]
        return content if isinstance(content, bytes) else content.read_bytes()


def clean(name: str) -> str:
    """Lower case, composed Unicode, plain apostrophe."""
    return unicodedata.normalize("NFC", name).replace("’", "'").lower()


def labels(text: str) -> set[str]:
    return {clean(" ".join(part.split())) for part in text.split(";")}


def rank(name: str) -> str:
    """A fixed pseudo-random key: the split depends on the names alone."""
    return sha256(name.encode()).hexdigest()


def held_out(names: list[str]) -> tuple[set[str], dict[str, int]]:
    """(2 % of the objects, held out in all styles; for 15 % of the others the one style that is
    held out: 5 % of the pairs), by the order of the names' hashes."""
    order = sorted(names, key=rank)
    all_styles, one_style = round(0.02 * len(order)), round(0.15 * len(order))
    return set(order[:all_styles]), {
        name: int(rank(name)[-8:], 16) % len(STYLES)
        for name in order[all_styles : all_styles + one_style]
    }


def read_picture(content: bytes) -> Tensor:
    """A PNG or WebP file on white -> (3, 64, 64) uint8."""
    import numpy as np
    from PIL import Image

    picture = Image.open(io.BytesIO(content)).convert("RGBA")
    if picture.size != (SIZE, SIZE):
        picture = picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", picture.size, "white")
    return torch.from_numpy(np.array(Image.alpha_composite(white, picture).convert("RGB"))).permute(
        2, 0, 1
    )


def find(package: Package, pattern: str, hexcode: str) -> str | None:
    """The path of a picture: file names carry the variation selector fe0f or not."""
    code = hexcode.lower()
    paths = (pattern.format(form) for form in (code, code.replace("-fe0f", ""), f"{code}-fe0f"))
    return next((path for path in paths if path in package), None)


def build_data(packages: Path, path: Path) -> Emoji:
    """Choose the objects, composite their pictures on white at 64 x 64 and write one file."""
    table = json.loads(Package(packages, NAMES[0])[NAMES[1]])
    sources = {
        style: (Package(packages, name), pattern) for style, (name, pattern) in PICTURES.items()
    }
    smileys, dropped = labels(SMILEYS), labels(DROPPED)
    entries = {
        clean(entry["label"]): entry
        for entry in table
        if entry.get("group") in GROUPS or clean(entry["label"]) in smileys
    }
    unknown = (smileys | dropped | set(ALIASES)) - set(entries)
    if unknown:
        raise ValueError(
            f"SMILEYS, DROPPED, ALIASES: {sorted(unknown)} are no labels of {NAMES[0]}; correct"
            " them"
        )
    found = {
        name: {
            style: find(package, pattern, entry["hexcode"])
            for style, (package, pattern) in sources.items()
        }
        for name, entry in entries.items()
        if name not in dropped
    }
    names = sorted(name for name, paths in found.items() if all(paths.values()))
    objects_out, pairs_out = held_out(names)
    images, objects, styles, split = [], [], [], []
    for i, name in enumerate(names):
        for j, style in enumerate(STYLES):
            images.append(read_picture(sources[style][0][found[name][style]]))
            objects.append(i)
            styles.append(j)
            split.append(2 if name in objects_out else 1 if pairs_out.get(name) == j else 0)
    versions = {
        name: {
            "version": json.loads(Package(packages, name)["package.json"])["version"],
            "licence": licence,
        }
        for name, licence in LICENCES.items()
    }
    tags = [[clean(tag) for tag in entries[name].get("tags", [])] for name in names]
    data = Emoji(
        torch.stack(images),
        torch.tensor(objects),
        torch.tensor(styles),
        torch.tensor(split),
        names,
        tags,
        versions,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        key: getattr(data, key).contiguous() for key in ("images", "objects", "styles", "split")
    }
    save_file(
        tensors,
        path,
        metadata={key: json.dumps(getattr(data, key)) for key in ("names", "tags", "packages")},
    )
    return data


def read_data(path: Path = RUN / "data.safetensors") -> Emoji:
    """Read :func:`build_data`'s file."""
    if not Path(path).exists():
        raise FileNotFoundError(
            f"{path} is not there: build it by python -m ddim_tutorial.training.emoji data "
            "--packages FOLDER (the four npm packages are named at the top of that file)"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = {key: json.loads(value) for key, value in file.metadata().items()}
            return Emoji(**{key: file.get_tensor(key) for key in file.keys()}, **metadata)
    except (SafetensorError, TypeError) as error:
        raise ValueError(
            f"{path}: not this recipe's data, or damaged ({error}); build it again"
        ) from error


# --- captions -------------------------------------------------------------------------------------


def caption(style: str, name: str) -> str:
    return f"{style} emoji of {name}"


def captions(style: str, name: str, tags: list[str]) -> list[str]:
    """What may be said of one picture; the first is the caption of the evaluation."""
    other = ALIASES.get(name, [])
    plain = [name, *other]
    said = [caption(style, name)]
    said += [caption(style, alias) for alias in other]
    said += [f"{style} style {form}" for form in plain[:2]]
    said += [
        template.format(form) for form in plain for template in ("image of {}", "{}", "{} emoji")
    ]
    said += [f"a picture of a {name} in {style} style"]
    said += [f"{name}, {tag}" for tag in tags[:6]]
    said += [f"{caption(style, name)}, {tag}" for tag in tags[:3]]
    return said


def caption_table(
    data: Emoji, rows: Tensor, encode: Callable[[list[str]], Tensor]
) -> tuple[Tensor, Tensor]:
    """Tokens of every caption of every row, (N, K, L) int64 padded over K, and the number of
    captions (N,)."""
    said = [
        captions(STYLES[data.styles[i]], data.names[data.objects[i]], data.tags[data.objects[i]])
        for i in rows
    ]
    counts = torch.tensor([len(part) for part in said])
    tokens = encode([text for part in said for text in part]).split(counts.tolist())
    return nn.utils.rnn.pad_sequence(tokens, batch_first=True), counts


def choose_captions(counts: Tensor, evaluation: float = 0.8) -> Tensor:
    """An index for every count: 0, the caption of the evaluation, with that probability, else any
    other, evenly."""
    other = 1 + (torch.rand(len(counts)) * (counts - 1)).long()
    return torch.where(torch.rand(len(counts)) < evaluation, 0, other)


def vocabulary_texts(data: Emoji) -> list[str]:
    """All captions, and every name and alias 100 times: so that each word of a name becomes one
    token."""
    said = [
        text
        for style in STYLES
        for name, tags in zip(data.names, data.tags, strict=True)
        for text in captions(style, name, tags)
    ]
    return said + 100 * [
        *data.names,
        *(alias for name in data.names for alias in ALIASES.get(name, [])),
    ]


def train_tokenizer(texts: Iterable[str], folder: Path, size: int = 2300):
    """A CLIPTokenizer with a byte-level BPE vocabulary of its own, trained on ``texts`` and saved
    in ``folder``. The tokens are the same each time, but not all their ids: merges of equal
    frequency come in any order."""
    from tokenizers import pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    start, end = "<|startoftext|>", "<|endoftext|>"
    plain = CLIPTokenizer(vocab={start: 0, end: 1}, merges=[])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[start, end],
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend = plain.backend_tokenizer
    backend.train_from_iterator(texts, trainer)
    model = json.loads(backend.to_str())["model"]
    vocab = dict(model["vocab"])
    # every byte also as the end of a word, so that nothing a reader types is unknown
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab.setdefault(f"{byte}</w>", len(vocab))
    tokenizer = CLIPTokenizer(
        vocab=vocab, merges=[tuple(pair) for pair in model["merges"]], model_max_length=TOKENS
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def tokenise(tokenizer, texts: list[str]) -> Tensor:
    """(N, 24) int64, as StableDiffusionPipeline calls its tokenizer."""
    return tokenizer(
        texts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


# --- models ---------------------------------------------------------------------------------------


def new_vae(channels: tuple[int, ...] = (32, 64, 128)):
    """64 x 64 x 3 -> 16 x 16 x 4."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=SIZE,
        latent_channels=4,
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
    )


def new_text_encoder(vocabulary: int, width: int = 192, layers: int = 2):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def new_unet(
    channels: tuple[int, int, int] = (96, 192, 192), width: int = 192, size: int = SIZE // 4
):
    """Convolutions at 16 x 16, cross-attention at 8 x 8 and 4 x 4. The pooled text is also added to
    the time embedding ("text", as in DeepFloyd IF): every residual block sees the prompt, and the
    call stays the plain unet(x_t, timestep, encoder_hidden_states). The embedding scales and shifts
    after the group norm: with 3 or 6 channels a group, a norm takes most of what is added before it
    away."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=size,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        time_embedding_dim=256,
        resnet_time_scale_shift="scale_shift",
    )


def new_scheduler():
    """Stable Diffusion v1's."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def new_pipeline(vae, text_encoder, tokenizer, unet):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline(
        vae,
        text_encoder,
        tokenizer,
        unet,
        new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Autoencoder(nn.Module):
    """x (B, 3, H, W) -> (reconstruction, mean, log variance): one forward, so that it can be
    distributed."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        posterior = self.vae.encode(x).latent_dist
        return self.vae.decode(posterior.sample()).sample, posterior.mean, posterior.logvar


class Denoiser(nn.Module):
    """(x_t (B, 4, H, W), timestep (B,) 0-based, tokens (B, L)) -> eps: text encoder and UNet,
    trained together."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, x_t: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        return self.unet(x_t, timestep, self.text_encoder(tokens)[0]).sample


# --- autoencoder ----------------------------------------------------------------------------------


def shifted(images: Tensor, pixels: int = 4) -> Tensor:
    """Each picture flipped or not, and moved by up to ``pixels`` on its white ground."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (pixels,) * 4, value=255)
    corners = torch.randint(2 * pixels + 1, (len(images), 2)).tolist()
    moved = torch.stack(
        [
            image[:, y : y + height, x : x + width]
            for image, (y, x) in zip(padded, corners, strict=True)
        ]
    )
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, moved, moved.flip(-1))


def laplacian(x: Tensor) -> Tensor:
    return x - F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def autoencoder_loss(
    net: nn.Module, images: Tensor, batch: int
) -> tuple[Tensor, dict[str, Tensor]]:
    x = from_uint8(shifted(images[torch.randint(len(images), (batch,))])).to(
        next(net.parameters()).device
    )
    x = x.contiguous(memory_format=torch.channels_last)
    reconstruction, mean, logvar = (part.float() for part in net(x))
    error = reconstruction - x
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    mse = error.square().mean()
    return error.abs().mean() + mse + laplacian(error).abs().mean() + 1e-3 * kl, {
        "mse": mse,
        "kl": kl,
    }


@torch.no_grad()
def encode(vae, images: Tensor, batch: int = 32) -> tuple[Tensor, Tensor]:
    """uint8 pictures -> mean and standard deviation of the latent posterior, (N, 4, H/4, W/4), not
    yet scaled."""
    posteriors = [
        vae.encode(from_uint8(part).to(vae.device, vae.dtype)).latent_dist
        for part in images.split(batch)
    ]
    return (
        torch.cat([p.mean for p in posteriors]).float().cpu(),
        torch.cat([p.std for p in posteriors]).float().cpu(),
    )


@torch.no_grad()
def decode(vae, latents: Tensor, batch: int = 32) -> Tensor:
    """Latents, not scaled -> uint8 pictures (N, 3, H, W)."""
    pictures = [
        vae.decode(part.to(vae.device, vae.dtype)).sample.float().cpu()
        for part in latents.split(batch)
    ]
    return ((torch.cat(pictures).clamp(-1, 1) + 1) * 127.5).round().byte()


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """PSNR in dB of each of (N, 3, H, W) uint8 pictures."""
    mse = (images.double() - others.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(255**2 / mse)


@torch.no_grad()
def centre(vae, images: Tensor) -> None:
    """Move the latents' channel means over ``images`` to 0, inside the two 1 x 1 convolutions
    (reconstructions do not change), and set ``scaling_factor`` to 1 / their standard deviation. SD
    starts at pure noise, which has mean 0, though x_T keeps 7 % of x_0: a white ground far from 0
    would be missed."""
    mean, _ = encode(vae, images)
    shift = mean.mean((0, 2, 3)).to(vae.device)
    vae.quant_conv.bias[: len(shift)] -= shift
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ shift
    std = (mean - mean.mean((0, 2, 3), keepdim=True)).std()
    vae.register_to_config(scaling_factor=round(1 / std.item(), 5))


def train_autoencoder(
    run: Path = RUN, steps: int = 2600, batch: int = 16, compiled: bool = False
) -> None:
    """Train in ``run``/autoencoder; the finished autoencoder goes to ``run``/vae."""
    data = read_data(run / "data.safetensors")
    train, rest = data.images[data.split == 0], data.images[data.split > 0]
    torch.manual_seed(0)
    model = Autoencoder(new_vae()).to(memory_format=torch.channels_last)
    if compiled:
        model.compile()

    def look(ema: Autoencoder, step: int) -> None:
        seen = decode(ema.vae, encode(ema.vae, rest)[0])
        print(
            f"step {step}: PSNR on held-out pictures {psnr(seen, rest).mean():.2f} dB", flush=True
        )
        save_grid(
            run / "autoencoder" / "pictures.png",
            torch.stack([rest[:32], seen[:32]], 1).flatten(0, 1),
        )

    settings = Settings(steps=steps, lr=8e-4, log_every=50)
    ema = fit(
        model,
        partial(autoencoder_loss, images=train, batch=batch),
        run / "autoencoder",
        settings,
        on_save=look,
    )
    if PartialState().is_main_process:
        centre(ema.vae, train)
        ema.vae.save_pretrained(run / "vae")


# --- diffusion ------------------------------------------------------------------------------------


class Corpus(NamedTuple):
    """What the diffusion model is trained on: mean and std (N, 4, H, W) of the scaled latents, the
    tokens of all captions (N, K, L) with their counts (N,), and the tokens (L,) of the empty
    caption."""

    mean: Tensor
    std: Tensor
    tokens: Tensor
    counts: Tensor
    empty: Tensor


def corpus(data: Emoji, vae, tokenizer) -> Corpus:
    rows = (data.split == 0).nonzero()[:, 0]
    mean, std = (vae.config.scaling_factor * part for part in encode(vae, data.images[rows]))
    tokens, counts = caption_table(data, rows, partial(tokenise, tokenizer))
    return Corpus(mean, std, tokens, counts, tokenise(tokenizer, [""])[0])


def late_times(batch: int) -> Tensor:
    """Times 1..T (B,) with the density t^(2/3): what a caption shows is learnt at large t, and is
    the longest to learn. Stratified over the batch, which lowers the variance of the gradient."""
    u = (torch.rand(()) + torch.arange(batch) / batch) % 1
    return 1 + (SCHEDULE.T * u**0.6).long().clamp(max=SCHEDULE.T - 1)


def diffusion_loss(
    net: nn.Module,
    corpus: Corpus,
    batch: int,
    *,
    dropout: float = 0.1,
    gamma: float = 5.0,
    floor: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Noise prediction with the min-SNR weight (Hang et al. 2023, arXiv:2303.09556: min(SNR, gamma)
    / SNR) and a floor: (min(SNR, gamma) + floor) / SNR. In terms of x0_hat the weight is min(SNR,
    gamma) + floor: without the floor what the caption alone should decide, near T, would count for
    nothing."""
    rows = torch.randint(len(corpus.mean), (batch,))
    mean = corpus.mean[rows]
    x_0 = mean + corpus.std[rows] * torch.randn_like(mean)
    eps = torch.randn_like(mean)
    t = late_times(batch)
    ab_t = SCHEDULE.at(t, x_0)
    x_t = add_noise(x_0, eps, ab_t)
    tokens = corpus.tokens[rows, choose_captions(corpus.counts[rows])]
    tokens = torch.where(torch.rand(batch, 1) < dropout, corpus.empty, tokens)
    device = next(net.parameters()).device
    x_t = x_t.to(device).contiguous(memory_format=torch.channels_last)
    eps_hat = net(x_t, (t - 1).to(device), tokens.to(device)).float().cpu()
    error = (eps_hat - eps).square().mean((1, 2, 3))
    snr = (ab_t / (1 - ab_t)).flatten()
    quarter = (t - 1) * 4 // SCHEDULE.T
    figures = {f"t to {SCHEDULE.T * (k + 1) // 4}": error[quarter == k].mean() for k in range(4)}
    return (error * (snr.clamp(max=gamma) + floor) / snr).mean(), figures


@torch.no_grad()
def sample(
    pipe, prompts: list[str], *, steps: int = 50, scale: float = 4.0, seed: int = 0, batch: int = 50
) -> Tensor:
    """Latents (N, 4, H, W), not scaled, through the diffusers pipeline; picture i has a generator
    of its own."""
    parts = []
    for first in tqdm(range(0, len(prompts), batch), desc=f"{len(prompts)} pictures", leave=False):
        part = prompts[first : first + batch]
        generators = [
            torch.Generator().manual_seed(seed * 1_000_003 + first + i) for i in range(len(part))
        ]
        # the state stays float32, the networks compute in bf16 where training did
        with torch.autocast(pipe.device.type, torch.bfloat16, enabled=mixed_precision() == "bf16"):
            parts.append(
                pipe(
                    part,
                    num_inference_steps=steps,
                    guidance_scale=scale,
                    generator=generators,
                    output_type="latent",
                )
                .images.float()
                .cpu()
            )
    return torch.cat(parts) / pipe.vae.config.scaling_factor


def save_grid(
    path: Path, images: Tensor, titles: list[str] | None = None, columns: int = 16
) -> None:
    """uint8 pictures (N, 3, H, W) in rows, with titles if there are any, as PNG."""
    import textwrap

    from matplotlib.figure import Figure

    rows = -(-len(images) // columns)
    figure = Figure(figsize=(columns * 0.9, rows * (1.2 if titles else 0.9)), layout="constrained")
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if i < len(images):
            axes.imshow(images[i].permute(1, 2, 0).numpy(), interpolation="lanczos")
            if titles:
                axes.set_title("\n".join(textwrap.wrap(titles[i], 17)), fontsize=6, pad=2)
    figure.savefig(path, dpi=80)


LOOK = (
    "noto emoji of red apple",
    "twemoji emoji of red apple",
    "fluent emoji of red apple",
    "fluent emoji of videocassette",
    "noto emoji of cat face",
    "twemoji emoji of grinning face",
    "noto emoji of smiling face with heart-eyes",
    "noto emoji of guitar",
    "fluent emoji of blue book",
    "twemoji emoji of camera",
    "noto emoji of radio",
    "twemoji emoji of dog face",
    "fluent emoji of rocket",
    "twemoji emoji of pizza",
    "noto emoji of crab",
    "noto emoji of bus",
    "fluent emoji of mushroom",
    "twemoji emoji of hamburger",
    "noto emoji of octopus",
    "twemoji emoji of sunflower",
    "noto emoji of penguin",
    "image of red apple",
    "cassette player",
    "fluent emoji of green book",
)


def components(folder: Path, *names: str) -> list[Any]:
    """Components of a pipeline's folder, in float32."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    for name in names:
        if not (folder / name).is_dir():
            raise FileNotFoundError(
                f"{folder / name} is not there, wanted the folder of a pipeline with {name}/ in it"
            )
    classes = {
        "vae": AutoencoderKL,
        "unet": UNet2DConditionModel,
        "text_encoder": CLIPTextModel,
        "tokenizer": CLIPTokenizer,
    }
    return [
        classes[name].from_pretrained(
            folder / name,
            local_files_only=True,
            **({} if name == "tokenizer" else {"dtype": torch.float32}),
        )
        for name in names
    ]


def prepare(data: Emoji, run: Path, init: Path | None):
    """(vae, tokenizer, text encoder, unet) to start from: ``init``'s, or the run's autoencoder and
    new networks."""
    with PartialState().main_process_first():  # the others find the files
        if init is not None and not (run / "diffusion" / "init.json").exists():
            take_over(init, run)
        if not (run / "vae").exists():
            raise FileNotFoundError(
                f"{run / 'vae'} is not there: train the autoencoder first, or give --init FOLDER"
            )
        if not (run / "tokenizer").exists():
            train_tokenizer(vocabulary_texts(data), run / "tokenizer")
    vae, tokenizer = components(run, "vae", "tokenizer")
    if init is not None:
        return vae, tokenizer, *components(init, "text_encoder", "unet")
    torch.manual_seed(0)
    return vae, tokenizer, new_text_encoder(len(tokenizer)), new_unet()


def take_over(init: Path, run: Path) -> None:
    """Copy the autoencoder and the tokenizer of the pipeline in ``init`` into a new run, and what
    it cost to train."""
    mine = [
        run / name
        for name in ("vae", "tokenizer", "diffusion/state.safetensors")
        if (run / name).exists()
    ]
    if mine:
        raise ValueError(
            f"--init {init}: the run has {mine[0]} of its own, which would be lost; go on without"
            " --init, or give another --run"
        )
    vae, tokenizer = components(init, "vae", "tokenizer")
    vae.save_pretrained(run / "vae")
    tokenizer.save_pretrained(run / "tokenizer")
    (run / "diffusion").mkdir(parents=True, exist_ok=True)
    card = json.loads((init / "card.json").read_text()) if (init / "card.json").exists() else {}
    (run / "diffusion" / "init.json").write_text(json.dumps(card.get("training", {})))


def matrices(model: nn.Module) -> set[str]:
    """The names of the weights for Muon: all matrices and convolutions but those next to the
    data."""
    outside = ("conv_in", "conv_out", "token_embedding", "position_embedding")
    return {
        name
        for name, p in model.named_parameters()
        if p.ndim >= 2 and not any(part in name for part in outside)
    }


def train_diffusion(
    run: Path = RUN,
    steps: int = 14_000,
    batch: int = 64,
    lr: float = 1.5e-3,
    *,
    seed: int = 0,
    warmup: int = 500,
    decay_from: float = 0.6,
    init: Path | None = None,
    compiled: bool = False,
) -> None:
    """Train text encoder and UNet in ``run``/diffusion, from ``init`` if given, else from the
    beginning."""
    data = read_data(run / "data.safetensors")
    vae, tokenizer, text_encoder, unet = prepare(data, run, init)
    examples = corpus(data, vae, tokenizer)
    unet.save_config(run / "diffusion" / "unet")
    text_encoder.config.save_pretrained(run / "diffusion" / "text_encoder")
    model = Denoiser(unet, text_encoder).to(memory_format=torch.channels_last)
    if compiled:
        model.compile()

    def look(ema: Denoiser, step: int) -> None:
        vae.to(ema.unet.device)
        latents = sample(
            new_pipeline(vae, ema.text_encoder, tokenizer, ema.unet), list(LOOK), steps=25
        )
        save_grid(
            run / "diffusion" / f"samples-{step:06d}.png",
            decode(vae, latents),
            list(LOOK),
            columns=8,
        )

    settings = Settings(
        steps=steps, lr=lr, warmup=warmup, decay_from=decay_from, log_every=100, seed=seed
    )
    fit(
        model,
        partial(diffusion_loss, corpus=examples, batch=batch),
        run / "diffusion",
        settings,
        on_save=look,
        matrices=matrices(model),
    )


# --- export ---------------------------------------------------------------------------------------


def trained(run: Path):
    """The pipeline with the averaged weights of the run's last checkpoint, float32."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    vae, tokenizer = components(run, "vae", "tokenizer")
    state = run / "diffusion" / "state.safetensors"
    if not state.exists():
        raise FileNotFoundError(
            f"{state} is not there: start the diffusion training and wait for its first checkpoint"
        )
    with safe_open(state, "pt") as file:
        weights = {
            key.removeprefix("ema.module."): file.get_tensor(key)
            for key in file.keys()
            if key.startswith("ema.module.")
        }
    config = UNet2DConditionModel.load_config(run / "diffusion" / "unet")
    config.pop("_name_or_path", None)  # of --init
    denoiser = Denoiser(
        UNet2DConditionModel.from_config(config),
        CLIPTextModel(CLIPTextConfig.from_pretrained(run / "diffusion" / "text_encoder")),
    )
    denoiser.load_state_dict(weights)
    return new_pipeline(vae, denoiser.text_encoder, tokenizer, denoiser.unet)


def progress(run: Path) -> dict[str, dict[str, Any]]:
    """Steps, hours (by the clock) and losses (of the last line of the log) of both trainings at
    their last checkpoint; steps and hours of the weights that the run started from are added."""
    init = run / "diffusion" / "init.json"
    parts: dict[str, dict[str, Any]] = json.loads(init.read_text()) if init.exists() else {}
    for name in ("autoencoder", "diffusion"):
        log, state = run / name / "log.jsonl", run / name / "state.safetensors"
        if log.exists() and state.exists():
            step, seconds = finished(state)
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            last = ([{}] + [line for line in lines if line["step"] <= step])[-1]
            losses = {
                key: round(value, 5)
                for key, value in last.items()
                if key not in ("step", "lr", "seconds")
            }
            before = parts.get(name, {})
            parts[name] = {
                "steps": step + before.get("steps", 0),
                "hours": round(seconds / 3600 + before.get("hours", 0), 2),
                **losses,
            }
    return parts


def write_examples(data: Emoji, path: Path) -> None:
    """The held-out pictures: images (N, 3, 64, 64) uint8, labels (N,) int64 into the object names;
    the metadata has the captions, the names, and whether the style or the object is held out."""
    rows = (data.split > 0).nonzero()[:, 0].tolist()
    kinds = ["pair" if k == 1 else "object" for k in data.split[rows].tolist()]
    save_file(
        {"images": data.images[rows].contiguous(), "labels": data.objects[rows].contiguous()},
        path,
        metadata={
            "captions": json.dumps(data.captions(rows)),
            "names": json.dumps(data.names),
            "held_out": json.dumps(kinds),
        },
    )


def amend(path: Path, without: Iterable[str] = (), **entries: Any) -> None:
    """Add entries to a JSON file, or take some out."""
    content = {
        key: value for key, value in json.loads(path.read_text()).items() if key not in without
    }
    path.write_text(json.dumps(content | entries, indent=2) + "\n")


def export(run: Path = RUN, folder: Path = ZOO) -> None:
    """Write the pipeline as fp16 safetensors with examples and card; a measured quality in the card
    is dropped, for it belongs to other weights. ``run``/history.txt, if there is one, goes into the
    card: what a command line does not say of how the weights came about."""
    from ddim_tutorial.zoo import write_card

    data = read_data(run / "data.safetensors")
    pipe = trained(run).to(torch.float16)
    pipe.save_pretrained(folder, safe_serialization=True)
    # transformers would load the text encoder in the dtype of its file and diffusers the rest in
    # float32
    amend(folder / "text_encoder" / "config.json", dtype="float32")
    for config in (
        "vae/config.json",
        "tokenizer/tokenizer_config.json",
    ):  # where they were says nobody anything
        amend(folder / config, without=("_name_or_path", "is_local", "local_files_only"))
    write_examples(data, folder / "examples.safetensors")
    training = progress(run)
    parts = ("unet", "text_encoder", "vae")
    write_card(
        folder,
        {
            "name": "emoji",
            "title": (
                "Emoji 64 x 64 from text: a latent diffusion model in Stable Diffusion's format"
            ),
            "data": {
                "pictures": len(data.images),
                "objects": len(data.names),
                "styles": list(STYLES),
                "training pictures": int((data.split == 0).sum()),
                "packages": data.packages,
            },
            "licence": (
                "weights MIT; pictures: Noto Emoji Apache-2.0, Twemoji CC BY 4.0, Fluent Emoji MIT"
            ),
            "command": (
                [
                    f"python -m ddim_tutorial.training.emoji {part}"
                    for part in ("data --packages FOLDER", "autoencoder", "diffusion", "export")
                ]
                + ["python -m ddim_tutorial.training.evaluate emoji"]
            ),
            "hours": round(sum(part["hours"] for part in training.values()), 2),
            "training": training,
            **(
                {"history": history.read_text().strip()}
                if (history := run / "history.txt").exists()
                else {}
            ),
            "parameters": {
                part: sum(p.numel() for p in getattr(pipe, part).parameters()) for part in parts
            },
            "aliases": ALIASES,
            "quality": {},
            "weaknesses": [
                (
                    "It knows the names of its training pictures, in three styles, and little else:"
                    " a prompt of other words gives an object it has seen or a blend."
                ),
                "One object on white; no scenes, no counting, no text, no people.",
            ],
        },
    )
    print(
        f"{folder}: {sum(p.stat().st_size for p in folder.rglob('*') if p.is_file()) / 1e6:.1f} MB"
    )


def positive(text: str) -> int:
    """A whole number from 1 up, of the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, wanted 1 or more")
    return value


def fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"got {value}, wanted 0 to 1")
    return value


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ddim_tutorial.training.emoji",
        description="Data, training and export of the emoji model.",
    )
    parser.add_argument(
        "--run", type=Path, default=RUN, help="folder of the run (default: %(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("data").add_argument(
        "--packages",
        type=Path,
        required=True,
        help="folder with the four npm packages, as .tgz or unpacked",
    )
    for name, steps, batch in (("autoencoder", 2600, 16), ("diffusion", 14_000, 64)):
        command = commands.add_parser(name)
        command.add_argument("--steps", type=positive, default=steps)
        command.add_argument("--batch", type=positive, default=batch)
        command.add_argument(
            "--compile", action="store_true", dest="compiled", help="torch.compile the network"
        )
    command.add_argument("--lr", type=float, default=1.5e-3)
    command.add_argument(
        "--seed", type=int, default=0, help="another one when going on from --init"
    )
    command.add_argument(
        "--warmup", type=positive, default=500, help="steps over which the rate rises"
    )
    command.add_argument(
        "--decay-from", type=fraction, default=0.6, help="fraction of the steps at the full rate"
    )
    command.add_argument("--init", type=Path, help="folder of an exported pipeline to start from")
    commands.add_parser("export").add_argument("--folder", type=Path, default=ZOO)
    options = vars(parser.parse_args(arguments))
    run, command = options.pop("run"), options.pop("command")
    if command == "data":
        data = build_data(options["packages"], run / "data.safetensors")
        print(
            f"{len(data.images)} pictures of {len(data.names)} objects: {(data.split == 0).sum()}"
            f" for training, {(data.split == 1).sum()} pairs and {(data.split == 2).sum()} pictures"
            " of whole objects held out"
        )
    else:
        {"autoencoder": train_autoencoder, "diffusion": train_diffusion, "export": export}[command](
            run, **options
        )


if __name__ == "__main__":
    main()
