"""The Gaussian VAE against PyTorch, on the same networks, batch and optimiser.

Ratios measured in turn within one process: an epoch against pythae's VAE (MLP 300-300,
d = 8), once by pythae's own trainer, without its progress bar and on pixels that it need not
binarise, and once in a bare PyTorch loop that binarises as avb does; and a convolutional step
against the same step in eager PyTorch (three 4×4 layers of stride 2 both ways). Data are 784
pixels.

    pip install -e ".[benchmark]"
    python -m benchmarks.against_torch
"""

import tempfile
from collections.abc import Callable
from copy import deepcopy

import jax
import numpy as np
import torch
import torch.nn.functional as F
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import nn

import avb
from avb.training import DeviceData, init, run
from avb.training._step import Inputs
from benchmarks._timing import interleaved, median_ratio, write_table

BATCH, WIDTH, LATENT = 128, 300, 8
CONFIG = avb.FitConfig(epochs=1000, batch_size=BATCH)
EPOCH_STEPS = 390
CONV_STEPS = 10
ROUNDS = 7
PLACES = {"trainer": "its own trainer", "loop": "a bare loop"}


class MLPEncoder(BaseEncoder):
    """784-300-300, then mean and log variance."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(784, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU()
        )
        self.head = nn.Linear(WIDTH, 2 * LATENT)

    def forward(self, x):
        loc, log_variance = self.head(self.net(x)).chunk(2, dim=-1)
        return ModelOutput(embedding=loc, log_covariance=log_variance)


class MLPDecoder(BaseDecoder):
    """8-300-300-784, as probabilities."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(LATENT, WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, 784),
            nn.Sigmoid(),
        )

    def forward(self, z):
        return ModelOutput(reconstruction=self.net(z))


class ConvVAE(nn.Module):
    """The networks of ``avb.Architecture(network="conv")`` and the Gaussian VAE's loss."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.SiLU(),
            nn.Conv2d(16, 32, 4, 2, 1), nn.SiLU(),
            nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(32, 32, 4, 2), nn.SiLU(),
            nn.Flatten(), nn.Linear(512, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 2 * LATENT),
        )  # fmt: skip
        self.dense = nn.Sequential(
            nn.Linear(LATENT, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 512), nn.SiLU()
        )
        # The negative padding cuts 8×8 pixels to 7×7, as the encoder's 7×7 were padded.
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ZeroPad2d((0, -1, 0, -1)), nn.SiLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.SiLU(),
            nn.ConvTranspose2d(16, 1, 4, 2, 1),
        )  # fmt: skip

    def forward(self, inputs):
        x = inputs["data"].view(-1, 1, 28, 28)
        loc, log_variance = self.encoder(x).chunk(2, dim=-1)
        z = loc + torch.exp(0.5 * log_variance) * torch.randn_like(loc)
        logits = self.decoder(self.dense(z).view(-1, 32, 4, 4))
        likelihood = -F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        divergence = 0.5 * (loc**2 + log_variance.exp() - 1 - log_variance).sum(-1)
        return ModelOutput(loss=(divergence - likelihood.sum((1, 2, 3))).mean())


def pythae_epoch(model: VAE, pixels: torch.Tensor, folder: str) -> Callable[[], None]:
    settings = BaseTrainerConfig(
        output_dir=folder, per_device_train_batch_size=BATCH, learning_rate=1e-3, no_cuda=True
    )
    data = BaseDataset(pixels, torch.zeros(len(pixels)))
    trainer = BaseTrainer(model, data, training_config=settings)
    trainer.prepare_training()
    trainer.callback_handler.callbacks = []

    def call() -> None:
        trainer.train_step(epoch=1)

    return call


def torch_steps(model: nn.Module, pixels: torch.Tensor, steps: int) -> Callable[[], None]:
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

    def call() -> None:
        order = torch.randperm(len(pixels))
        for step in range(steps):
            chosen = pixels[order[step * BATCH : (step + 1) * BATCH]]
            x = (torch.rand_like(chosen) < chosen).float()
            optimiser.zero_grad(set_to_none=True)
            model({"data": x})["loss"].backward()
            optimiser.step()

    return call


def avb_steps(network: avb.Architecture, raw: np.ndarray, steps: int) -> Callable[[], None]:
    data = DeviceData(raw, "binarise", BATCH)
    method = avb.gaussian_vae(network, key=jax.random.key(0))
    holder = [init(method, data, CONFIG, key=jax.random.key(1))]

    def call() -> None:
        holder[0] = run(Inputs(data, CONFIG, holder[0].step + steps), holder[0])
        jax.block_until_ready(holder[0].step)

    return call


def main() -> None:
    rng = np.random.default_rng(0)
    raw = ((rng.random((EPOCH_STEPS * BATCH, 28, 28)) < 0.2) * 255).astype(np.uint8)
    pixels = torch.from_numpy(raw.reshape(-1, 784)).float() / 255
    config = VAEConfig(input_dim=(784,), latent_dim=LATENT, reconstruction_loss="bce")
    pythae = VAE(config, encoder=MLPEncoder(), decoder=MLPDecoder())
    with tempfile.TemporaryDirectory() as folder:
        times = interleaved(
            {
                "epoch": avb_steps(avb.Architecture((28, 28)), raw, EPOCH_STEPS),
                "epoch, trainer": pythae_epoch(deepcopy(pythae), pixels, folder),
                "epoch, loop": torch_steps(pythae, pixels, EPOCH_STEPS),
                "conv": avb_steps(avb.Architecture((28, 28), network="conv"), raw, CONV_STEPS),
                "conv, torch": torch_steps(ConvVAE(), pixels, CONV_STEPS),
            },
            ROUNDS,
            warmups=1,
        )
    median = {name: float(np.median(seconds)) for name, seconds in times.items()}
    lines = ["| | avb | PyTorch | ratio |", "| --- | ---: | ---: | ---: |"]
    for by in ("trainer", "loop"):
        faster = median_ratio(times[f"epoch, {by}"], times["epoch"])
        lines.append(
            f"| epoch of {EPOCH_STEPS} steps, MLP, against pythae's VAE in {PLACES[by]}, s "
            f"| {median['epoch']:.2f} | {median[f'epoch, {by}']:.2f} | {faster:.2f} × as fast |"
        )
    slower = median_ratio(times["conv"], times["conv, torch"])
    ours, theirs = (1e3 * median[name] / CONV_STEPS for name in ("conv", "conv, torch"))
    lines.append(
        f"| convolutional step, against eager PyTorch, ms | {ours:.0f} | {theirs:.0f} "
        f"| {slower:.2f} × the time |"
    )
    write_table("against_torch", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
