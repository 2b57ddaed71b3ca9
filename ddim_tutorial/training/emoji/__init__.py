"""The bundled text-to-image model: emoji at 64 x 64 in four styles, a latent diffusion model in
Stable Diffusion's format (AutoencoderKL, CLIPTextModel, UNet2DConditionModel, DDIMScheduler), small
enough for two processor cores.

    python -m ddim_tutorial.training.emoji data          # says how to install the pictures
    python -m ddim_tutorial.training.emoji autoencoder   # runs/emoji/vae
    python -m ddim_tutorial.training.emoji diffusion     # runs/emoji/diffusion
    python -m ddim_tutorial.training.emoji judge         # runs/emoji/judge.safetensors
    python -m ddim_tutorial.training.emoji export        # ddim_tutorial/zoo/emoji
    python -m ddim_tutorial.training.evaluate emoji      # the figures of the card

``diffusion`` trains a tokenizer first and encodes the family of every picture. A training that was
stopped goes on from its last checkpoint when the same command is started again. On a fresh machine,
``diffusion --init ddim_tutorial/zoo/emoji`` goes on from the exported weights (without the
optimiser's state).
``quick`` prints the judge's figures for the last checkpoint of a run.
``--compile`` saves a fifth of the time of a step on two cores, after two minutes of compiling.
Two processes of one thread each bear other work on the machine better than one process of two:
``OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m ddim_tutorial.training.emoji diffusion
--batch 32`` (32 each).
"""
