//! What people ask for, from the question to what they hold in hands at the end: charts, numbers, workbooks, pictures.
//!
//! The model is scripted and writes what a good one would write; all else is real: the server, the kernels, the packages that are
//! installed. `docs/prompts.md` has the same questions for a user to try.
mod turn_prompts {
    mod charts;
    mod diffusion;
    mod files;
    mod numbers;
    mod prices;
    mod talk;
    mod tool;
}
