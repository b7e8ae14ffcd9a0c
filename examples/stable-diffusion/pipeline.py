"""Paints a picture with Stable Diffusion and saves it as a PNG. Runs in a session's kernel, or as a program.

DIFFUSION_MODEL   a model's name on the Hugging Face Hub, or a folder with its weights; "tiny", the default, needs none:
                  the whole pipeline, but tiny and with random weights. Its picture is noise; it shows that all works.
PROMPT            what to paint
PICTURE           the file, fox.png if nothing is said
"""

import json
import os
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from IPython.display import display
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TINY = "tiny"


def tiny() -> StableDiffusionPipeline:
    """The parts of the real pipeline, each as small as it can be; nothing is fetched."""
    torch.manual_seed(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        tokenizer=tokenizer,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


model = os.environ.get("DIFFUSION_MODEL", TINY)
prompt = os.environ.get("PROMPT", "a red fox in the snow")
path = os.environ.get("PICTURE", "fox.png")
device = "cuda" if torch.cuda.is_available() else "cpu"
if model == TINY:
    pipeline, settings = tiny(), {"num_inference_steps": 5, "height": 64, "width": 64}
else:
    # Half the memory, where the device can calculate so.
    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float16 if device == "cuda" else None)
    settings = {}
picture = pipeline.to(device)(prompt, **settings).images[0]
picture.save(path)
print(f"{path}: {model} on {device}" + (" (random weights: this is noise)" if model == TINY else ""))
display(picture)
