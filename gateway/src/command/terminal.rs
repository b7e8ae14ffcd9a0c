//! What the terminal can show: images (kitty, iTerm2, sixel) and colours.
use std::{
    fs::{File, OpenOptions},
    io::{IsTerminal, Read as _, Write as _},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr},
    unistd::{getpgrp, tcgetpgrp},
};

/// Terminals that answer at all answer sooner, also over a slow line.
const PATIENCE: Duration = Duration::from_millis(500);
/// Asks whether the kitty protocol is known, then for the device's attributes, which every terminal tells: nothing later can come.
const QUESTION: &[u8] = b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[c";
/// Wider images are shown smaller; sixel has no other way to fit.
const SIXEL_WIDTH: u32 = 900;

/// A way to show images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Graphics {
    Kitty,
    Iterm,
    Sixel,
}

/// How stdout's terminal shows images, if it is one and can. Asks it, and never waits long.
pub(crate) fn graphics() -> Option<Graphics> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if !std::io::stdout().is_terminal() || matches!(variable("TERM").as_str(), "" | "dumb" | "linux") {
        return None;
    }
    let multiplexed = !variable("TMUX").is_empty() || variable("TERM").starts_with("screen");
    if !multiplexed && (variable("TERM_PROGRAM") == "iTerm.app" || variable("LC_TERMINAL") == "iTerm2") {
        return Some(Graphics::Iterm);
    }
    understood(&ask()?)
}

/// Colours on this stream.
pub(crate) fn colours(stream: impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// What a terminal's answer says.
fn understood(answer: &[u8]) -> Option<Graphics> {
    let answer = String::from_utf8_lossy(answer);
    if answer.contains("\x1b_Gi=31;OK") {
        return Some(Graphics::Kitty);
    }
    let attributes = answer.split("\x1b[?").last()?.strip_suffix('c')?;
    attributes.split(';').any(|attribute| attribute == "4").then_some(Graphics::Sixel)
}

/// The terminal's answer, or None when there is none in time.
fn ask() -> Option<Vec<u8>> {
    let mut tty = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
    // A job in the background would be stopped for touching the terminal.
    if tcgetpgrp(&tty).ok()? != getpgrp() {
        return None;
    }
    let _quiet = Quiet::new(tty.try_clone().ok()?, LocalFlags::ECHO | LocalFlags::ICANON)?;
    tty.write_all(QUESTION).ok()?;
    let deadline = Instant::now() + PATIENCE;
    let mut answer = Vec::new();
    while !complete(&answer) {
        let left = PollTimeout::try_from(deadline.saturating_duration_since(Instant::now())).ok()?;
        let mut waits = [PollFd::new(tty.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waits, left).ok()? == 0 {
            return None;
        }
        let mut bytes = [0; 256];
        let read = tty.read(&mut bytes).ok().filter(|&n| n > 0)?;
        answer.extend_from_slice(bytes.get(..read)?);
    }
    Some(answer)
}

fn complete(answer: &[u8]) -> bool {
    let attributes = answer.windows(3).position(|w| w == b"\x1b[?");
    attributes.is_some_and(|at| answer.iter().skip(at).any(|&b| b == b'c'))
}

/// Settings of the terminal that are switched off while this lives.
#[derive(Debug)]
pub(crate) struct Quiet {
    tty: File,
    before: Termios,
}

impl Quiet {
    fn new(tty: File, off: LocalFlags) -> Option<Self> {
        let before = tcgetattr(&tty).ok()?;
        let mut settings = before.clone();
        settings.local_flags.remove(off);
        if let Some(least) = settings.control_chars.get_mut(SpecialCharacterIndices::VMIN as usize) {
            *least = 1;
        }
        tcsetattr(&tty, SetArg::TCSANOW, &settings).ok()?;
        Some(Self { tty, before })
    }

    /// No echo of what is typed, for passwords.
    pub(crate) fn without_echo() -> Option<Self> {
        Self::new(File::open("/dev/tty").ok()?, LocalFlags::ECHO)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.tty, SetArg::TCSANOW, &self.before);
    }
}

/// The terminal's settings at one moment.
#[derive(Debug)]
pub(crate) struct Kept {
    tty: File,
    settings: Termios,
}

impl Kept {
    pub(crate) fn of_terminal() -> Option<Self> {
        let tty = File::open("/dev/tty").ok()?;
        let settings = tcgetattr(&tty).ok()?;
        Some(Self { tty, settings })
    }

    pub(crate) fn restore(&self) {
        let _ = tcsetattr(&self.tty, SetArg::TCSANOW, &self.settings);
    }
}

/// The bytes that show an image, or None where this way cannot show this type.
pub(crate) fn image(graphics: Graphics, media_type: &str, data: &[u8]) -> Option<Vec<u8>> {
    match (graphics, media_type) {
        (Graphics::Iterm, "image/png" | "image/jpeg" | "image/gif") => {
            let size = data.len();
            Some(format!("\x1b]1337;File=inline=1;size={size}:{}\x07\n", STANDARD.encode(data)).into_bytes())
        }
        (Graphics::Kitty, "image/png") => Some(kitty(data)),
        (Graphics::Sixel, "image/png") => sixel(data),
        _ => None,
    }
}

fn kitty(png: &[u8]) -> Vec<u8> {
    let encoded = STANDARD.encode(png);
    let chunks: Vec<_> = encoded.as_bytes().chunks(4096).collect();
    let mut out = Vec::new();
    for (i, chunk) in chunks.iter().enumerate() {
        let first = if i == 0 { "a=T,f=100,q=2," } else { "" };
        let more = u8::from(i + 1 < chunks.len());
        out.extend_from_slice(format!("\x1b_G{first}m={more};").as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\x1b\\");
    }
    out.push(b'\n');
    out
}

fn sixel(png: &[u8]) -> Option<Vec<u8>> {
    use icy_sixel::{DiffusionMethod, MethodForLargest, MethodForRep, PixelFormat, Quality};
    let mut picture = image::load_from_memory_with_format(png, image::ImageFormat::Png).ok()?;
    if picture.width() > SIXEL_WIDTH {
        picture = picture.thumbnail(SIXEL_WIDTH, u32::MAX);
    }
    // Sixel knows no transparency that terminals agree on: put it on white, as notebooks do.
    let mut canvas = image::RgbaImage::from_pixel(picture.width(), picture.height(), image::Rgba([255; 4]));
    image::imageops::overlay(&mut canvas, &picture.to_rgba8(), 0, 0);
    let pixels = image::DynamicImage::from(canvas).into_rgb8();
    let (width, height) = (i32::try_from(pixels.width()).ok()?, i32::try_from(pixels.height()).ok()?);
    let text = icy_sixel::sixel_string(
        pixels.as_raw(),
        width,
        height,
        PixelFormat::RGB888,
        DiffusionMethod::Auto,
        MethodForLargest::Auto,
        MethodForRep::Auto,
        Quality::AUTO,
    )
    .ok()?;
    Some(format!("{text}\n").into_bytes())
}

/// Text without its ANSI escape sequences.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\x1b' {
            out.push(c);
            continue;
        }
        match chars.next() {
            // Parameters and intermediates end with one of @ to ~.
            Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
            // A string ends with BEL or ESC \.
            Some(']') => {
                while let Some(c) = chars.next() {
                    if c == '\x07' || (c == '\x1b' && chars.next_if_eq(&'\\').is_some()) {
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    out
}

/// Text that cannot move a terminal's cursor or change its settings.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::RgbaImage::from_pixel(width, 4, image::Rgba([255, 0, 0, 255]))
            .write_to(&mut bytes, image::ImageFormat::Png)
            .unwrap();
        bytes.into_inner()
    }

    #[test]
    fn a_terminals_answer_says_what_it_can() {
        assert_eq!(understood(b"\x1b_Gi=31;OK\x1b\\\x1b[?62;c"), Some(Graphics::Kitty));
        assert_eq!(understood(b"\x1b[?62;4;22c"), Some(Graphics::Sixel));
        assert_eq!(understood(b"\x1b[?64;14c"), None);
        assert!(complete(b"\x1b[?6c") && !complete(b"\x1b_Gi=31;OK\x1b\\\x1b[?6"));
    }

    #[test]
    fn kitty_gets_the_png_itself_in_chunks() {
        let png = vec![7; 9000];
        let shown = String::from_utf8(image(Graphics::Kitty, "image/png", &png).unwrap()).unwrap();
        let chunks: String =
            shown.split("\x1b\\").filter_map(|chunk| chunk.split_once(';')).map(|(_, data)| data).collect();
        assert_eq!(STANDARD.decode(chunks).unwrap(), png);
        assert_eq!(shown.matches("m=1;").count(), 2);
        assert_eq!(shown.matches("m=0;").count(), 1);
        assert!(image(Graphics::Kitty, "image/jpeg", &png).is_none());
    }

    #[test]
    fn sixel_draws_and_a_broken_image_is_not_shown() {
        let shown = image(Graphics::Sixel, "image/png", &png(SIXEL_WIDTH * 2)).unwrap();
        assert!(shown.starts_with(b"\x1bP"));
        assert!(String::from_utf8_lossy(&shown).contains(&format!(";{SIXEL_WIDTH};")), "shown smaller");
        assert!(image(Graphics::Sixel, "image/png", b"not a png").is_none());
    }

    #[test]
    fn escapes_are_taken_out() {
        assert_eq!(plain("\x1b[0;31mZero\x1b[0m \x1b]8;;u\x1b\\link\x1b]8;;\x07!"), "Zero link!");
    }

    #[test]
    fn harmless_text_cannot_move_the_cursor() {
        assert_eq!(harmless("a\x1b[2Jb\tc\r\nd\u{9b}1m"), "a[2Jb\tc\nd1m");
    }
}
