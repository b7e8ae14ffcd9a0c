//! `kernelbox chat`: questions and answers in a session that lasts.
//!
//! The answers are on stdout; what the command says of itself is on stderr, so that a script can read the one without the other.
mod input;
mod words;

use std::path::{Path, PathBuf};

use clap::Args;
use kernelbox_proto::v1::{Session, StartTurnRequest, TurnOptions};

use self::{
    input::{Input, Line},
    words::{Command, HELP},
};
use super::{
    connect::{self, Client, ConnectArgs},
    failure::{Exit, Failure, Result},
    files::{self, attach},
    progress::Progress,
    request_id, say, session_name,
    sessions::open,
    signals::{Asked, Signals},
    table::{visible, write_stdout},
    turn::{End, Files, OnInterrupt, Output, Turn},
};

#[derive(Debug, Args)]
#[command(after_help = format!("{HELP}\n\nWithout a terminal each line of stdin is a question, and stdout holds the answers alone."))]
pub(crate) struct ChatArgs {
    /// The session to talk in, made if it does not exist [default: a new one]. It stays
    #[arg(long, short, env = "KERNELBOX_SESSION", value_name = "ID")]
    session: Option<String>,
    /// A file that the first question is about; it is copied into the session (repeatable)
    #[arg(long, short, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// The model that answers, by the name that the server gives it [default: the session's]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Save images and the files that turns make here [default: images that the terminal cannot show, in ./kernelbox-output]
    #[arg(long, short, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: ChatArgs) -> Result<Exit> {
    attach::check(&args.file)?;
    let lasting = args.session.as_deref().map(session_name).transpose()?;
    let progress = Progress::new();
    let mut signals = Signals::new()?;
    let client = tokio::select! {
        client = connect::connect(&args.connect, &progress) => client?,
        _ = signals.next() => return Ok(Exit::Left),
    };
    let input = Input::new(args.connect.data_dir.as_deref());
    let mut chat = tokio::select! {
        chat = Chat::open(&args, client, lasting, progress) => chat?,
        _ = signals.next() => return Ok(Exit::Left),
    };
    let result = chat.talk(&args, input, &mut signals).await;
    chat.progress.clear();
    chat.close().await;
    result
}

/// A conversation.
struct Chat {
    client: Client,
    /// `sessions/{session}`
    session: String,
    /// It was made for this conversation, and nothing has been asked or put into it yet.
    unused: bool,
    /// None: the session's.
    model: Option<String>,
    output_dir: Option<PathBuf>,
    /// Files of the workspace that the next question is about.
    attached: Vec<String>,
    output: Output,
    progress: Progress,
}

/// What a line led to.
enum Next {
    Goes(Exit),
    Ends(Exit),
}

impl Chat {
    async fn open(args: &ChatArgs, client: Client, lasting: Option<String>, progress: Progress) -> Result<Self> {
        let (session, unused) = open_session(&client, lasting, args.model.as_deref(), &progress).await?;
        let output = output(&client, &session, args.output_dir.as_deref(), &progress);
        let (model, output_dir) = (args.model.clone(), args.output_dir.clone());
        Ok(Self { client, session, unused, model, output_dir, attached: Vec::new(), output, progress })
    }

    fn id(&self) -> &str {
        self.session.trim_start_matches("sessions/")
    }

    /// Takes lines until there are no more. A person's exit code is 0; a script's tells of the last question that was not answered.
    async fn talk(&mut self, args: &ChatArgs, mut input: Input, signals: &mut Signals) -> Result<Exit> {
        if let Some(Next::Ends(exit)) = stoppable(self.attach(&args.file), signals).await? {
            return Ok(exit);
        }
        let id = self.id();
        say(&format!("session {id}; come back to it with `kernelbox chat --session {id}`"));
        if input.is_terminal() {
            say("/help lists what else can be typed, Ctrl-D ends");
        }
        let mut exit = Exit::Ok;
        loop {
            let line = tokio::select! {
                line = input.next() => line,
                _ = signals.next() => {
                    input.abandon();
                    return Ok(Exit::Left);
                }
            };
            let text = match line {
                Line::Text(text) => text,
                Line::Interrupted => {
                    say("nothing runs; Ctrl-D ends");
                    continue;
                }
                Line::End => return Ok(exit),
            };
            match self.line(&text, signals).await {
                Ok(Next::Goes(Exit::Ok)) => {}
                Ok(Next::Goes(_)) if input.is_terminal() => {}
                Ok(Next::Goes(failed)) => exit = failed,
                Ok(Next::Ends(how)) => return Ok(if how == Exit::Ok { exit } else { how }),
                // A person can try again; a script would only fail again.
                Err(failure) if input.is_terminal() && !failure.message.is_empty() => {
                    self.progress.clear();
                    say(&failure.message);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn line(&mut self, text: &str, signals: &mut Signals) -> Result<Next> {
        let done = match Command::read(text).map_err(Failure::usage)? {
            Command::Nothing => None,
            Command::Ask(question) => return self.ask(question, signals).await,
            Command::Help => write_stdout(format!("{HELP}\n").as_bytes()).map(|()| None)?,
            Command::File(path) => stoppable(self.attach(&[words::local(&path)]), signals).await?,
            Command::Files => {
                let list = files::list(&self.client, self.session.clone(), String::new(), true, false, &self.progress);
                stoppable(list, signals).await?
            }
            Command::Save(path) => stoppable(self.output.save(&path), signals).await?,
            Command::New => stoppable(self.renew(), signals).await?,
            Command::Model(name) => {
                say(&format!("from now on {} answers", name.as_deref().unwrap_or("the session's own model")));
                self.model = name;
                None
            }
            Command::Quit => Some(Next::Ends(Exit::Ok)),
        };
        Ok(done.unwrap_or(Next::Goes(Exit::Ok)))
    }

    /// One turn. Files that the question names are copied into the session first.
    async fn ask(&mut self, question: String, signals: &mut Signals) -> Result<Next> {
        let (message, paths) = words::attachments(&question);
        if let Some(end) = stoppable(self.attach(&paths), signals).await? {
            return Ok(end);
        }
        self.unused = false;
        let options = TurnOptions { model: self.model.clone().unwrap_or_default(), ..TurnOptions::default() };
        let request = StartTurnRequest {
            session: self.session.clone(),
            message,
            attachments: self.attached.clone(),
            options: Some(options),
            request_id: request_id(),
        };
        self.progress.say("waiting for the model");
        let turn = Turn::start(&self.client, request);
        let end = turn.watch(&mut self.output, signals, OnInterrupt::Cancel).await;
        self.progress.clear();
        // A question that could not be asked may be asked again, about the same files.
        let end = end?;
        self.attached.clear();
        let next = match end {
            End::Over(exit) => Next::Goes(exit),
            End::Left => {
                self.output.note(&format!("left the turn; it may still run: see `kernelbox turns list {}`", self.id()));
                Next::Goes(Exit::Failed)
            }
            End::Terminated => Next::Ends(Exit::Left),
        };
        self.output.next_turn()?;
        Ok(next)
    }

    /// Copies files into the session; the next question is about them.
    async fn attach(&mut self, paths: &[PathBuf]) -> Result<()> {
        attach::check(paths)?;
        for path in attach::copy(&self.client, &self.session, paths, &self.progress).await? {
            self.unused = false;
            say(&format!("attached {}", visible(&path)));
            if !self.attached.contains(&path) {
                self.attached.push(path);
            }
        }
        Ok(())
    }

    /// Goes on in a new session.
    async fn renew(&mut self) -> Result<()> {
        let (session, unused) = open_session(&self.client, None, self.model.as_deref(), &self.progress).await?;
        self.close().await;
        self.output = output(&self.client, &session, self.output_dir.as_deref(), &self.progress);
        (self.session, self.unused) = (session, unused);
        self.attached.clear();
        let id = self.id();
        say(&format!("session {id}, new; come back to it with `kernelbox chat --session {id}`"));
        Ok(())
    }

    /// Says what stays, or removes a session of ours that was never used.
    async fn close(&self) {
        if self.unused {
            open::remove(&self.client, self.session.clone(), true, &self.progress).await;
        } else {
            let id = self.id();
            say(&format!("session {id} stays; `kernelbox sessions delete {id}` removes it with its files"));
        }
    }
}

/// Does this unless Ctrl-C stops it. Some where the program is to end.
async fn stoppable(work: impl Future<Output = Result<()>>, signals: &mut Signals) -> Result<Option<Next>> {
    tokio::select! {
        done = work => done.map(|()| None),
        asked = signals.next() => match asked {
            Asked::Interrupt => Err(Failure::new(Exit::Left, "stopped")),
            Asked::End => Ok(Some(Next::Ends(Exit::Left))),
        },
    }
}

/// The session to talk in, and whether it was made for this alone.
async fn open_session(
    client: &Client,
    lasting: Option<String>,
    model: Option<&str>,
    progress: &Progress,
) -> Result<(String, bool)> {
    progress.say("opening a session");
    let session = Session {
        display_name: "kernelbox chat".to_owned(),
        model: model.unwrap_or_default().to_owned(),
        ..Session::default()
    };
    let opened = match lasting {
        Some(name) => open::named(client, &name, session).await.map(|_| (name, false)),
        None => open::new(client, session).await.map(|name| (name, true)),
    };
    progress.clear();
    opened
}

fn output(client: &Client, session: &str, output_dir: Option<&Path>, progress: &Progress) -> Output {
    let files = if output_dir.is_some() { Files::Save } else { Files::Name("/save ".to_owned()) };
    Output::new(client, session, output_dir, files, false, progress.clone())
}
