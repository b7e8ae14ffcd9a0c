//! Language models through their adapters, against the scripted server: what each provider sends, and what becomes of it.
//!
//! What a provider really sends is written down in `models/`, each beside the public page that it follows.
mod models {
    pub mod support;

    mod anthropic;
    mod facts;
    mod faults;
    mod openai;
}
