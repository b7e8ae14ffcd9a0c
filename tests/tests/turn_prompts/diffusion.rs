//! A Stable Diffusion pipeline, whole but tiny and with random weights: what counts is that it runs, and that its picture arrives.
use kernelbox_proto::v1::turn_event::Kind;
use kernelbox_tests::{Reply, prompt::decoded};

use super::talk::Talk;

/// The parts of the real pipeline, each as small as it can be; nothing is fetched from a hub.
const CODE: &str = "\
import json, tempfile, torch
from pathlib import Path
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

torch.manual_seed(1)
letters = 'abcdefghijklmnopqrstuvwxyz'
words = ['<|startoftext|>', '<|endoftext|>', *letters, *(letter + '</w>' for letter in letters)]
folder = Path(tempfile.mkdtemp())
(folder / 'vocab.json').write_text(json.dumps({word: at for at, word in enumerate(words)}))
(folder / 'merges.txt').write_text('#version: 0.2\\n')
text = CLIPTextConfig(
    vocab_size=len(words), hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2,
    bos_token_id=0, eos_token_id=1, pad_token_id=1)
unet = UNet2DConditionModel(
    sample_size=32, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32,
    down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'), up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'))
vae = AutoencoderKL(
    block_out_channels=(32, 64), latent_channels=4,
    down_block_types=('DownEncoderBlock2D',) * 2, up_block_types=('UpDecoderBlock2D',) * 2)
pipeline = StableDiffusionPipeline(
    vae=vae, text_encoder=CLIPTextModel(text), unet=unet, scheduler=DDIMScheduler(clip_sample=False),
    tokenizer=CLIPTokenizer(str(folder / 'vocab.json'), str(folder / 'merges.txt'), model_max_length=77),
    safety_checker=None, feature_extractor=None, requires_safety_checker=False)
picture = pipeline('a red fox in the snow', num_inference_steps=5, height=64, width=64).images[0]
picture.save('fox.png')
display(picture)";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs torch with its CUDA libraries, 6 GB on disk: make test-model"]
async fn a_picture_is_made_by_stable_diffusion() {
    let mut talk = Talk::with([Reply::python(CODE), Reply::text("The picture is fox.png.")]).await;
    let (turned, given) = talk.ask("Paint a red fox in the snow with Stable Diffusion").await;
    for distribution in ["torch", "diffusers", "transformers"] {
        let installed = |kind: &Kind| matches!(kind, Kind::PackageInstalled(it) if it.distribution == distribution && it.failure.is_empty());
        assert!(turned.has(installed), "{distribution}: {:#?}", turned.events);
    }
    let file = decoded(given.file("fox.png").unwrap()).unwrap().to_rgb8();
    assert_eq!(file.dimensions(), (64, 64));
    assert!(file.pixels().any(|pixel| pixel != file.get_pixel(0, 0)), "it is blank");
    assert!(matches!(&given.pictures[..], [shown] if shown.to_rgb8() == file));
    talk.stack.stop().await;
}
