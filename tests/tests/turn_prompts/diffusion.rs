//! A Stable Diffusion pipeline, whole but tiny and with random weights: what counts is that it runs, and that its picture arrives.
use kernelbox_proto::v1::turn_event::Kind;
use kernelbox_tests::{Reply, prompt::decoded};

use super::talk::Talk;

/// As a user runs it, who says nothing of a model: nothing is fetched from a hub then.
const CODE: &str = include_str!("../../../examples/stable-diffusion/pipeline.py");

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
