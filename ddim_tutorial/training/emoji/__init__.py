"""The bundled text-to-image model: emoji at 64 x 64 in four styles, a latent diffusion model in
Stable Diffusion's format (AutoencoderKL, CLIPTextModel, UNet2DConditionModel, DDIMScheduler), small
enough for two processor cores.

    python -m ddim_tutorial.training.emoji data          # says how to install the pictures
    python -m ddim_tutorial.training.emoji autoencoder   # runs/emoji/vae
    python -m ddim_tutorial.training.emoji diffusion     # runs/emoji/diffusion
    python -m ddim_tutorial.training.emoji export        # ddim_tutorial/zoo/emoji
    python -m ddim_tutorial.training.emoji judge         # runs/emoji/judge.safetensors
    python -m ddim_tutorial.training.evaluate emoji      # the figures of the card

``diffusion`` trains a tokenizer first and encodes the family of every picture. A training that was
stopped goes on from its last checkpoint when the same command is started again. On a fresh machine,
``diffusion --init ddim_tutorial/zoo/emoji`` goes on from the exported weights (without the
optimiser's state). ``quick`` prints the judge's figures for the last checkpoint of a run.
``--compile`` saves a fifth of the time of a step on two cores, after two minutes of compiling.
Where the machine does other work as well, ``OMP_WAIT_POLICY=PASSIVE`` keeps waiting threads from
starving each other; alone, the training is a quarter slower with it.
"""
