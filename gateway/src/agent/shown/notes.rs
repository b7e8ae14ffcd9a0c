//! What is told beside the output: packages, files, output that was left out. Pure.
use kernelbox_proto::v1::{Artifact, ArtifactChange, CodeError, OutputLimit, OutputTruncated, PackageInstalled};

use super::{MAX_NOTE, escapes::plain};
use crate::agent::text::{middle_cut, one_line, size};

/// Names that everybody gives these modules. Small models use them without an import, and go round in circles over the error.
const USUAL_IMPORTS: [(&str, &str); 12] = [
    ("np", "import numpy as np"),
    ("pd", "import pandas as pd"),
    ("plt", "import matplotlib.pyplot as plt"),
    ("sns", "import seaborn as sns"),
    ("math", "import math"),
    ("random", "import random"),
    ("json", "import json"),
    ("os", "import os"),
    ("re", "import re"),
    ("time", "import time"),
    ("datetime", "import datetime"),
    ("requests", "import requests"),
];

/// The import that would have spared this error.
pub(super) fn missing_import(error: &CodeError) -> Option<&'static str> {
    let name = error.value.strip_prefix("name '")?.split('\'').next()?;
    let known = USUAL_IMPORTS.iter().find(|(known, _)| *known == name).filter(|_| error.name == "NameError");
    known.map(|(_, import)| *import)
}

/// What became of a package.
pub(super) fn installed(package: &PackageInstalled) -> String {
    let PackageInstalled { distribution, version, failure, .. } = package;
    match failure.trim() {
        "" => format!("[installed {distribution} {version}]"),
        failure => {
            format!("[{distribution} could not be installed: {}]", plain(&middle_cut(failure, MAX_NOTE)))
        }
    }
}

/// Where output was left out, and where it is kept.
pub(super) fn left_out(truncated: &OutputTruncated) -> String {
    let limit = size(u64::try_from(truncated.limit_bytes).unwrap_or(0));
    let path = one_line(&truncated.path, MAX_NOTE);
    match (truncated.limit(), path.as_str()) {
        (OutputLimit::Log, path) => format!("[the file {path} ends after {limit}; the rest of the output is lost]"),
        (_, "") => format!("[output over {limit} was left out]"),
        (_, path) => format!("[output over {limit} was left out; the whole is in the file {path}]"),
    }
}

/// Files that were made or changed; `more` are not named.
pub(super) fn files(files: &[Artifact], more: usize) -> Option<String> {
    let mut words: Vec<String> = files
        .iter()
        .map(|file| {
            let size = size(u64::try_from(file.size).unwrap_or(0));
            let path = one_line(&file.path, MAX_NOTE);
            match file.change() {
                ArtifactChange::Deleted => format!("deleted {path}"),
                ArtifactChange::Modified => format!("changed {path} ({size})"),
                ArtifactChange::Created | ArtifactChange::Unspecified => format!("created {path} ({size})"),
            }
        })
        .collect();
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    (!words.is_empty()).then(|| format!("[files: {}]", words.join(", ")))
}
