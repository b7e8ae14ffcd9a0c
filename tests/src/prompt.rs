//! Questions that a user asks, and what the user must get: the same for a scripted model and for a real one.
//!
//! What is given is looked at as the user would: pictures are decoded, workbooks opened. How the model went about it is not looked at.
use std::{collections::BTreeMap, fs, process::Command};

use image::DynamicImage;
use kernelbox_proto::v1::{StartTurnRequest, TurnOptions, execution_event, mime_part, turn_event::Kind};

use crate::{Client, Turned, ask, python};

/// A question, the file that it is about, and what must come of it.
#[derive(Debug, Clone, Copy)]
pub struct Prompt {
    pub question: &'static str,
    /// Its name and content.
    pub file: Option<(&'static str, &'static str)>,
    /// What is wrong with what the user was given.
    pub check: fn(&Given) -> Result<(), String>,
}

pub const SINE: Prompt = Prompt { question: "Plot a sine wave and show it to me.", file: None, check: shows_chart };

pub const ANALYSIS: Prompt = Prompt {
    question: "Analyze this dataset and plot something interesting",
    file: Some(("bike-rentals.csv", include_str!("../../examples/bike-rentals.csv"))),
    check: shows_chart,
};

pub const PRODUCT: Prompt = Prompt {
    question: "What is 17*23? Calculate it by running code.",
    file: None,
    check: |given| {
        given.ran()?;
        given.says(&["391"])
    },
};

pub const SUMS: Prompt = Prompt {
    question: "What is the sum of each column of sales.csv?",
    file: Some(("sales.csv", "apples,pears,plums\n12,7,31\n30,16,1\n58,24,10\n17,4,19\n")),
    check: |given| {
        given.ran()?;
        given.says(&["117", "51", "61"])
    },
};

pub const PI: Prompt = Prompt {
    question: "Estimate pi with a Monte Carlo simulation of a million points.",
    file: None,
    check: |given| {
        given.ran()?;
        // Six standard deviations.
        given.says(&["3.13"]).or_else(|_| given.says(&["3.14"]))
    },
};

pub const EXCEL: Prompt = Prompt {
    question: "Convert this dataset to excel",
    file: Some(("iris.csv", IRIS)),
    check: |given| {
        let workbook = given.file("iris.xlsx")?;
        let rows = sheet(workbook)?;
        // An index column more is the model's choice.
        let has = |row: usize, texts: [&str; 3]| texts.iter().all(|text| rows[row].iter().any(|cell| cell == text));
        match rows.len() == IRIS.lines().count()
            && has(0, ["sepal_length", "petal_width", "species"])
            && has(1, ["5.1", "0.2", "setosa"])
        {
            true => Ok(()),
            false => Err(format!("the workbook holds {rows:?}")),
        }
    },
};

/// A dozen of the flowers, four of each kind.
const IRIS: &str = "\
sepal_length,sepal_width,petal_length,petal_width,species
5.1,3.5,1.4,0.2,setosa
4.9,3.0,1.4,0.2,setosa
4.7,3.2,1.3,0.2,setosa
4.6,3.1,1.5,0.2,setosa
7.0,3.2,4.7,1.4,versicolor
6.4,3.2,4.5,1.5,versicolor
6.9,3.1,4.9,1.5,versicolor
5.5,2.3,4.0,1.3,versicolor
6.3,3.3,6.0,2.5,virginica
5.8,2.7,5.1,1.9,virginica
7.1,3.0,5.9,2.1,virginica
6.3,2.9,5.6,1.8,virginica
";

/// What the user of a turn has in hands at its end.
#[derive(Debug, Clone)]
pub struct Given {
    pub answer: String,
    pub code: Vec<String>,
    /// Those shown, decoded.
    pub pictures: Vec<DynamicImage>,
    /// Those that the turn made, by path.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Prompt {
    /// Asks it, with its file uploaded and attached.
    pub async fn ask(&self, client: &mut Client, session: &str) -> Turned {
        // A small model may go round in circles. How long it takes is the machine's matter.
        let options = TurnOptions { max_iterations: Some(8), ..Default::default() };
        let mut request = StartTurnRequest { options: Some(options), ..ask(session, self.question) };
        if let Some((name, content)) = self.file {
            client.upload(session, name, content.as_bytes()).await.unwrap();
            request = StartTurnRequest { attachments: vec![name.to_owned()], ..request };
        }
        client.try_turn(request).await.unwrap()
    }
}

impl Given {
    /// Fetches the files of a turn that was answered. An error says why there is nothing to have.
    pub async fn of(turned: &Turned, client: &mut Client, session: &str) -> Result<Self, String> {
        let completed = match turned.kinds().last() {
            Some(Kind::Completed(completed)) => completed,
            other => return Err(format!("the last event is {other:?}")),
        };
        if let Some(limit) = turned.limit() {
            return Err(format!("it ended at a limit: {limit}"));
        }
        let mut files = BTreeMap::new();
        for artifact in &completed.artifacts {
            let content = client.download(session, &artifact.path).await.map_err(|status| format!("{status:?}"))?;
            files.insert(artifact.path.clone(), content);
        }
        let pictures = turned.pngs().map(decoded).collect::<Result<_, _>>()?;
        Ok(Self { answer: completed.answer.clone(), code: completed.code_log.clone(), pictures, files })
    }

    pub fn file(&self, path: &str) -> Result<&[u8], String> {
        match self.files.get(path) {
            Some(content) => Ok(content),
            None => Err(format!("no {path} among the files {:?}", self.files.keys())),
        }
    }

    /// Whether code ran at all.
    pub fn ran(&self) -> Result<(), String> {
        if self.code.is_empty() { Err("no code ran".to_owned()) } else { Ok(()) }
    }

    /// Whether the answer holds these.
    pub fn says(&self, words: &[&str]) -> Result<(), String> {
        match words.iter().find(|word| !self.answer.contains(**word)) {
            None => Ok(()),
            Some(word) => Err(format!("the answer does not hold {word}: {}", self.answer)),
        }
    }
}

impl Turned {
    /// The pictures that its code showed, as the client gets them.
    pub fn pngs(&self) -> impl Iterator<Item = &[u8]> {
        let bundles = self.executions().filter_map(|event| match event.kind.as_ref()? {
            execution_event::Kind::Display(bundle) => Some(bundle),
            execution_event::Kind::Result(result) => result.bundle.as_ref(),
            _ => None,
        });
        bundles.flat_map(|bundle| &bundle.parts).filter_map(|part| match &part.content {
            Some(mime_part::Content::Data(data)) if part.media_type == "image/png" => Some(&data[..]),
            _ => None,
        })
    }
}

pub fn decoded(png: &[u8]) -> Result<DynamicImage, String> {
    image::load_from_memory(png).map_err(|error| format!("a picture of {} bytes: {error}", png.len()))
}

fn shows_chart(given: &Given) -> Result<(), String> {
    match given.pictures.iter().any(is_drawn) {
        true => Ok(()),
        false => Err("no chart was shown".to_owned()),
    }
}

/// Something is on the picture, and it is no thumbnail.
pub fn is_drawn(picture: &DynamicImage) -> bool {
    let pixels = picture.to_rgb8();
    let first = pixels.get_pixel(0, 0);
    picture.width() >= 100 && picture.height() >= 100 && pixels.pixels().any(|pixel| pixel != first)
}

/// The cells of a workbook's only sheet, as openpyxl reads them.
pub fn sheet(workbook: &[u8]) -> Result<Vec<Vec<String>>, String> {
    const CODE: &str = "\
import json, sys, openpyxl
(sheet,) = openpyxl.load_workbook(sys.argv[1]).worksheets
print(json.dumps([[str(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]))";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("book.xlsx");
    fs::write(&path, workbook).unwrap();
    let read = Command::new(python()).args(["-c", CODE]).arg(&path).output().unwrap();
    let words = || format!("openpyxl cannot read it: {}", String::from_utf8_lossy(&read.stderr));
    serde_json::from_slice(&read.stdout).map_err(|_| words())
}
