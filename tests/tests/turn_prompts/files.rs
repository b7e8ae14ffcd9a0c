//! Files that the user takes away: they open in other programs.
use image::{DynamicImage, GrayImage, ImageFormat, Rgb, RgbImage};
use kernelbox_proto::v1::turn_event::Kind;
use kernelbox_tests::{
    Reply,
    prompt::{EXCEL, decoded},
};

use super::talk::Talk;

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_is_converted_to_excel() {
    let code = "import pandas as pd\npd.read_csv('iris.csv').to_excel('iris.xlsx', index=False)";
    let mut talk = Talk::with([Reply::python(code), Reply::text("The workbook is iris.xlsx.")]).await;
    let (_, given) = talk.ask_prompt(&EXCEL).await;
    assert_eq!(given.files.keys().collect::<Vec<_>>(), ["iris.xlsx"]);
    talk.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_resized() {
    // given: red on the left, blue on the right
    let colour = |x| if x < 40 { Rgb([200, 0, 0]) } else { Rgb([0, 0, 200]) };
    let photo = DynamicImage::from(RgbImage::from_fn(80, 60, |x, _| colour(x)));
    let mut png = std::io::Cursor::new(Vec::new());
    photo.write_to(&mut png, ImageFormat::Png).unwrap();

    let code = "\
from PIL import Image
photo = Image.open('photo.png')
small = photo.resize((photo.width // 2, photo.height // 2))
small.save('photo-small.png')
print(photo.size, '->', small.size)";
    let mut talk = Talk::with([Reply::python(code), Reply::text("photo-small.png is 40 x 30 pixels.")]).await;
    let (turned, given) = talk.ask_about("Make this picture half as wide and high", "photo.png", png.get_ref()).await;

    assert_eq!(turned.stdout(), "(80, 60) -> (40, 30)\n");
    let small = decoded(given.file("photo-small.png").unwrap()).unwrap().to_rgb8();
    assert_eq!(small.dimensions(), (40, 30));
    assert_eq!((small.get_pixel(10, 15), small.get_pixel(30, 15)), (&colour(0), &colour(79)));
    talk.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qr_code_is_made() {
    let code = "\
import qrcode
code = qrcode.make('https://example.org').get_image()
code.save('qr.png')
display(code)";
    let mut talk = Talk::with([Reply::python(code), Reply::text("The code is in qr.png, too.")]).await;
    let (turned, given) = talk.ask("Make a QR code of https://example.org").await;

    assert!(turned.has(|kind| matches!(kind, Kind::PackageInstalled(it) if it.distribution == "qrcode")));
    let file = decoded(given.file("qr.png").unwrap()).unwrap().to_luma8();
    assert!(matches!(&given.pictures[..], [shown] if shown.to_luma8() == file));
    assert_finder_patterns(&file);
    talk.stack.stop().await;
}

/// The three marks by which readers find a QR code: dark and light 1, 1, 3, 1, 1 modules wide. A module has 10 pixels, the margin 4 modules.
fn assert_finder_patterns(code: &GrayImage) {
    let modules = code.width() / 10 - 8;
    let is_dark = |x: u32, y: u32| code.get_pixel(10 * (x + 4) + 5, 10 * (y + 4) + 5).0[0] < 128;
    for (left, top) in [(0, 0), (modules - 7, 0), (0, modules - 7)] {
        for at in 0..7 {
            let dark = at != 1 && at != 5;
            assert_eq!(is_dark(left + at, top + 3), dark, "{at} across {left}, {top}");
            assert_eq!(is_dark(left + 3, top + at), dark, "{at} down {left}, {top}");
        }
    }
    // The fourth corner has none.
    assert!((0..7).any(|at| is_dark(modules - 7 + at, modules - 4) != (at != 1 && at != 5)));
}
