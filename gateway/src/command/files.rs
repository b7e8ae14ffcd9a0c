//! `kernelbox files`: moves files in and out of a session. A path is written `SESSION:PATH`.
pub(crate) mod attach;
mod transfer;

use clap::{Args, Subcommand};
use kernelbox_proto::v1::{
    DeleteFileRequest, FetchUrlRequest, File, FileType, ListFilesRequest, MakeDirectoryRequest, MoveFileRequest,
    StatFileRequest,
};

use super::{
    connect::{Client, ConnectArgs, connect},
    failure::{Exit, Failure, Result},
    progress::Progress,
    session_name,
    table::{self, Table, print_json, visible, write_stdout},
};

#[derive(Debug, Args)]
#[command(
    after_help = "A remote path is SESSION:PATH, for example s1:data/in.csv; SESSION: alone is the whole workspace."
)]
pub(crate) struct FilesArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List a folder
    List {
        #[arg(value_name = "SESSION:[PATH]")]
        path: Remote,
        /// All below it, too
        #[arg(long, short)]
        recursive: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Copy a file out of a session
    Get {
        #[arg(value_name = "SESSION:PATH")]
        from: Remote,
        /// A file, a folder, or `-` for stdout [default: the same name, here]
        to: Option<String>,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Copy a file into a session
    Put {
        /// A file, or `-` for stdin
        from: String,
        /// Ending in `/` or `:` it is the folder to put it in
        #[arg(value_name = "SESSION:PATH")]
        to: Remote,
        /// Fail if the file is there
        #[arg(long)]
        no_overwrite: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Delete a file or a folder
    Rm {
        #[arg(value_name = "SESSION:PATH")]
        path: Remote,
        /// A folder with all that is in it
        #[arg(long, short)]
        recursive: bool,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Rename a file or a folder within its session
    Mv {
        #[arg(value_name = "SESSION:PATH")]
        from: Remote,
        #[arg(value_name = "NEW_PATH")]
        to: String,
        /// Replace what is there
        #[arg(long)]
        overwrite: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Make a folder, and those above it
    Mkdir {
        #[arg(value_name = "SESSION:PATH")]
        path: Remote,
        #[command(flatten)]
        common: Common,
    },
    /// Show one file, with its SHA-256
    Stat {
        #[arg(value_name = "SESSION:PATH")]
        path: Remote,
        #[command(flatten)]
        common: Common,
    },
    /// Let the server fetch a file from an http or https address
    Fetch {
        url: String,
        #[arg(value_name = "SESSION:[PATH]")]
        to: Remote,
        /// Replace what is there
        #[arg(long)]
        overwrite: bool,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// Print proto3 JSON, one message a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `SESSION:PATH`.
#[derive(Debug, Clone)]
struct Remote {
    /// sessions/{session}
    session: String,
    path: String,
}

impl std::str::FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (session, path) = text.split_once(':').ok_or("must be SESSION:PATH, for example s1:data.csv")?;
        let session = session_name(session).map_err(|failure| failure.message)?;
        Ok(Self { session, path: path.to_owned() })
    }
}

pub(crate) async fn run(args: FilesArgs) -> Result<Exit> {
    match args.action {
        Action::List { path: Remote { session, path }, recursive, common } => {
            list(&client(&common.connect).await?, session, path, recursive, common.json, &Progress::new()).await?;
        }
        Action::Get { from, to, connect } => transfer::get(&client(&connect).await?, from, to).await?,
        Action::Put { from, to, no_overwrite, common } => {
            let file = transfer::put(&client(&common.connect).await?, &from, to, !no_overwrite).await?;
            common.show(&file)?;
        }
        Action::Rm { path: Remote { session, path }, recursive, connect } => {
            let request = DeleteFileRequest { session, path, recursive };
            client(&connect).await?.files().delete_file(request).await?;
        }
        Action::Mv { from: Remote { session, path }, to, overwrite, common } => {
            let new_path = within(&session, &to)?;
            let request = MoveFileRequest { session, path, new_path, overwrite };
            common.show(&client(&common.connect).await?.files().move_file(request).await?.into_inner())?;
        }
        Action::Mkdir { path: Remote { session, path }, common } => {
            let request = MakeDirectoryRequest { session, path };
            common.show(&client(&common.connect).await?.files().make_directory(request).await?.into_inner())?;
        }
        Action::Stat { path: Remote { session, path }, common } => {
            let request = StatFileRequest { session, path, digest: true };
            let file = client(&common.connect).await?.files().stat_file(request).await?.into_inner();
            common.details(&file)?;
        }
        Action::Fetch { url, to: Remote { session, path }, overwrite, common } => {
            let request = FetchUrlRequest { session, url, path, overwrite, sha256: String::new() };
            let client = client(&common.connect).await?;
            let progress = Progress::new();
            progress.say(format!("fetching {}", request.url));
            let file = client.files().fetch_url(request).await;
            progress.clear();
            common.show(&file?.into_inner())?;
        }
    }
    Ok(Exit::Ok)
}

impl Common {
    /// What was written where.
    fn show(&self, file: &File) -> Result<()> {
        if self.json {
            return print_json("File", file);
        }
        write_stdout(format!("{}\n", visible(&file.path)).as_bytes())
    }

    fn details(&self, file: &File) -> Result<()> {
        if self.json {
            return print_json("File", file);
        }
        let mut table = Table::new(&["FILE", &visible(&file.path)]);
        table.row(["type".to_owned(), kind(file)]);
        table.row(["size".to_owned(), file.size.to_string()]);
        table.row(["mode".to_owned(), format!("{:04o}", file.mode)]);
        table.row(["changed".to_owned(), table::time(file.modify_time.as_ref())]);
        for (name, value) in
            [("media type", &file.media_type), ("sha256", &file.sha256), ("link to", &file.link_target)]
        {
            if !value.is_empty() {
                table.row([name.to_owned(), value.clone()]);
            }
        }
        table.print()
    }
}

async fn client(args: &ConnectArgs) -> Result<Client> {
    let progress = Progress::new();
    let client = connect(args, &progress).await;
    progress.clear();
    client
}

/// The files in a folder, on stdout.
pub(crate) async fn list(
    client: &Client,
    session: String,
    path: String,
    recursive: bool,
    json: bool,
    progress: &Progress,
) -> Result<()> {
    let mut table = Table::new(&["SIZE", "CHANGED", "TYPE", "PATH"]);
    let mut request = ListFilesRequest { parent: session, path, recursive, page_size: 1000, ..Default::default() };
    loop {
        progress.say("asking the session");
        let page = client.files().list_files(request.clone()).await;
        progress.clear();
        let page = page?.into_inner();
        for file in &page.files {
            if json {
                print_json("File", file)?;
                continue;
            }
            let size = if file.r#type() == FileType::File { table::bytes(file.size) } else { "-".to_owned() };
            table.row([size, table::time(file.modify_time.as_ref()), kind(file), shown_path(file)]);
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if json { Ok(()) } else { table.print() }
}

fn kind(file: &File) -> String {
    table::word(FileType::as_str_name(&file.r#type()), "FILE_TYPE_")
}

fn shown_path(file: &File) -> String {
    match file.r#type() {
        FileType::Directory => format!("{}/", file.path),
        FileType::Symlink => format!("{} -> {}", file.path, file.link_target),
        _ => file.path.clone(),
    }
}

/// The new path of a move: plain, or with the same session before it.
fn within(session: &str, to: &str) -> Result<String> {
    match to.parse::<Remote>() {
        Ok(remote) if remote.session == session => Ok(remote.path),
        Ok(_) => Err(Failure::usage("a file moves within its session only: use get and put")),
        Err(_) => Ok(to.to_owned()),
    }
}
