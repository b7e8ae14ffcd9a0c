//! Pictures for a model: what they are is read from their bytes, since one that is not what it says makes providers refuse the whole
//! conversation. Pure.
use bytes::Bytes;

use super::text::size;
use crate::model::Part;

/// The largest picture that a model is shown: providers take 5 MB, as base64.
const MAX_BYTES: usize = 3_700_000;
/// Its longest side, in pixels.
const MAX_SIDE: u32 = 8000;
/// Pictures in one result.
const MAX_SHOWN: usize = 4;

/// A picture of a kind that models see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) media_type: &'static str,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) data: Bytes,
}

impl Picture {
    /// None where the bytes are no PNG, JPEG, GIF or WebP.
    pub(super) fn read(data: Bytes) -> Option<Self> {
        let (media_type, (width, height)) = match &data[..] {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => ("image/png", png(&data)?),
            [0xff, 0xd8, 0xff, ..] => ("image/jpeg", jpeg(&data)?),
            [b'G', b'I', b'F', b'8', ..] => ("image/gif", (u32::from(le16(&data, 6)?), u32::from(le16(&data, 8)?))),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => ("image/webp", webp(&data)?),
            _ => return None,
        };
        (width > 0 && height > 0).then_some(Self { media_type, width, height, data })
    }

    /// For example `PNG, 640 x 480 pixels, 23.1 KiB`.
    pub(super) fn words(&self) -> String {
        let Self { width, height, .. } = self;
        let kind = self.media_type.trim_start_matches("image/").to_ascii_uppercase();
        format!("{kind}, {width} x {height} pixels, {}", size(self.data.len() as u64))
    }

    fn fits(&self) -> bool {
        self.data.len() <= MAX_BYTES && self.width <= MAX_SIDE && self.height <= MAX_SIDE
    }
}

/// The pictures of one result, at most as many as a model should be shown.
#[derive(Debug, Clone)]
pub(super) struct Album {
    /// The model sees images at all.
    sees_images: bool,
    shown: Vec<Picture>,
}

impl Album {
    pub(super) fn new(sees_images: bool) -> Self {
        Self { sees_images, shown: Vec::new() }
    }

    /// Adds a picture if it may be shown; the number under which it is.
    pub(super) fn add(&mut self, picture: Picture) -> Option<usize> {
        if !self.sees_images || !picture.fits() || self.shown.len() == MAX_SHOWN {
            return None;
        }
        self.shown.push(picture);
        Some(self.shown.len())
    }

    pub(super) fn clear(&mut self) {
        self.shown.clear();
    }

    pub(super) fn into_parts(self) -> impl Iterator<Item = Part> {
        self.shown.into_iter().map(|it| Part::Image { media_type: it.media_type.to_owned(), data: it.data })
    }
}

fn le16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

fn be16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

/// IHDR is always first.
fn png(data: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| Some(u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?));
    Some((number(16)?, number(20)?))
}

/// The frame header, behind any other segments.
fn jpeg(data: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    loop {
        if *data.get(at)? != 0xff {
            return None;
        }
        match *data.get(at + 1)? {
            // Padding, and marks without content.
            0xff => at += 1,
            0x01 | 0xd0..=0xd8 => at += 2,
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Some((u32::from(be16(data, at + 7)?), u32::from(be16(data, at + 5)?)));
            }
            _ => at += 2 + usize::from(be16(data, at + 2)?.max(2)),
        }
    }
}

/// The three kinds of a first chunk: lossy, lossless, extended.
fn webp(data: &[u8]) -> Option<(u32, u32)> {
    let byte = |at: usize| data.get(at).copied().map(u32::from);
    match data.get(12..16)? {
        b"VP8 " => Some((u32::from(le16(data, 26)? & 0x3fff), u32::from(le16(data, 28)? & 0x3fff))),
        b"VP8L" => {
            let bits = byte(21)? | byte(22)? << 8 | byte(23)? << 16 | byte(24)? << 24;
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        b"VP8X" => {
            let number = |at: usize| Some((byte(at)? | byte(at + 1)? << 8 | byte(at + 2)? << 16) + 1);
            Some((number(24)?, number(27)?))
        }
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A real PNG of a size.
    pub(in crate::agent) fn png_of(width: u32, height: u32) -> Bytes {
        let mut data = std::io::Cursor::new(Vec::new());
        image::DynamicImage::new_rgb8(width, height).write_to(&mut data, image::ImageFormat::Png).unwrap();
        data.into_inner().into()
    }

    fn hex(text: &str) -> Bytes {
        hex::decode(text.replace(' ', "")).unwrap().into()
    }

    #[test]
    fn kind_and_size_come_from_the_bytes() {
        // The beginnings of files that Pillow wrote, 37 x 21 pixels each; the JPEG without its tables.
        for (media_type, data) in [
            ("image/png", png_of(37, 21)),
            ("image/gif", hex(GIF)),
            ("image/jpeg", hex(JPEG)),
            ("image/webp", hex(WEBP_LOSSY)),
            ("image/webp", hex(WEBP_LOSSLESS)),
            ("image/webp", hex(WEBP_EXTENDED)),
        ] {
            let picture = Picture::read(data).unwrap_or_else(|| panic!("{media_type}"));
            assert_eq!((picture.media_type, picture.width, picture.height), (media_type, 37, 21));
        }
        assert_eq!(Picture::read(Bytes::from_static(b"<svg/>")), None);
        assert_eq!(Picture::read(Bytes::from_static(b"\x89PNG\r\n\x1a\n")), None);
        assert!(Picture::read(png_of(37, 21)).unwrap().words().starts_with("PNG, 37 x 21 pixels, "));
    }

    #[test]
    fn an_album_has_as_many_as_may_be_shown() {
        let picture = Picture::read(png_of(2, 2)).unwrap();
        let mut album = Album::new(true);
        let huge = Picture { width: 9000, ..picture.clone() };
        assert_eq!(album.add(huge), None);
        let numbers: Vec<_> = (0..6).map(|_| album.add(picture.clone())).collect();
        assert_eq!(numbers, [Some(1), Some(2), Some(3), Some(4), None, None]);
        assert_eq!(album.into_parts().count(), 4);
        assert_eq!(Album::new(false).add(picture), None);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(kind in 0usize..6, rest in prop::collection::vec(any::<u8>(), 0..64)) {
            let starts = ["89504e470d0a1a0a", "ffd8ffe0", "474946383961", "52494646303030305745425056503820",
                "5249464630303030574542505650384c", "52494646303030305745425056503858"];
            let _ = Picture::read([&hex(starts[kind])[..], &rest].concat().into());
        }
    }

    const GIF: &str = "47494638376125001500810000";
    const JPEG: &str = "ffd8ffe000104a46494600010100000100010000ffc00011080015002503012200021101031101";
    const WEBP_LOSSY: &str = "5249464634000000574542505650382028000000f002009d012a25001500";
    const WEBP_LOSSLESS: &str = "524946461a000000574542505650384c0e0000002f24000500071011fd0f";
    const WEBP_EXTENDED: &str = "524946465800000057454250565038580a00000008000000240000140000";
}
