//! `raftup secret` and `raftup config`.

use std::{
    fs::File,
    io::{self, Read},
    path::Path as FilePath,
};

use hyper::Method;
use raftup_proto::{
    api::{BlobCreate, BlobView},
    refusal::{Code, Refusal},
    spec::{BlobData, BlobKind},
};

use super::each;
use crate::{
    args::{BlobCommand, BlobCreateArgs, Listing},
    client::{Client, Path},
    failure::Failure,
    show::{self, Look, Text},
};

pub(super) async fn run(client: &Client, kind: BlobKind, command: BlobCommand) -> Result<(), Failure> {
    match command {
        BlobCommand::Ls(listing) => list(client, kind, listing).await,
        BlobCommand::Create(args) => create(client, kind, args).await,
        BlobCommand::Inspect { names, json } => inspect(client, kind, &names, json).await,
        BlobCommand::Rm { names } => remove(client, kind, &names).await,
    }
}

async fn list(client: &Client, kind: BlobKind, listing: Listing) -> Result<(), Failure> {
    let all: Vec<BlobView> = client.get(Path::new([kind.plural()])).await?;
    if listing.json {
        return Ok(show::json(&all)?);
    }
    if listing.quiet {
        return Ok(show::lines(all.iter().map(|blob| blob.id))?);
    }
    Ok(show::answer(show::blobs(&all, Look::stdout()))?)
}

async fn create(client: &Client, kind: BlobKind, args: BlobCreateArgs) -> Result<(), Failure> {
    let BlobCreateArgs { name, file, label, json } = args;
    let data = read(kind, &file)?;
    let body = BlobCreate { name, labels: label.into_iter().collect(), data };
    let made: BlobView = client.send(Method::POST, Path::new([kind.plural()]), &body).await?;
    if json {
        return Ok(show::json(&made)?);
    }
    Ok(show::answer(made.id.to_string())?)
}

/// The content in a file. Errors: it cannot be read, or is larger than the cluster takes.
fn read(kind: BlobKind, file: &FilePath) -> Result<BlobData, Refusal> {
    let max = kind.bytes_max() as u64;
    let mut content = Vec::new();
    let read = match file.to_str() {
        Some("-") => io::stdin().lock().take(max + 1).read_to_end(&mut content),
        _ => File::open(file).and_then(|file| file.take(max + 1).read_to_end(&mut content)),
    };
    let data = BlobData::from(content);
    let shown = file.display();
    let invalid = |why: String| Refusal::new(Code::Invalid, why);
    read.map_err(|error| invalid(format!("`{shown}` cannot be read: {error}")))?;
    match data.expose().len() {
        size if size as u64 > max => {
            Err(invalid(format!("`{shown}` is larger than the {} KB ({max} bytes) of a {kind}", max >> 10)))
        }
        size => kind.check_size(size).map(|()| data).map_err(|why| invalid(format!("`{shown}` {why}"))),
    }
}

async fn inspect(client: &Client, kind: BlobKind, names: &[String], json: bool) -> Result<(), Failure> {
    let found = each(names, async |name| {
        let blob: BlobView = client.get(Path::new([kind.plural(), name])).await?;
        Ok(blob)
    })
    .await?;
    if json {
        show::json(&found.done)?;
    } else {
        let look = Look::stdout();
        let texts: Vec<Text> = found.done.iter().map(|blob| show::blob(blob, look)).collect();
        show::answer(Text::below_each_other(&texts))?;
    }
    found.end()
}

async fn remove(client: &Client, kind: BlobKind, names: &[String]) -> Result<(), Failure> {
    each(names, async |name| {
        client.delete::<()>(Path::new([kind.plural(), name])).await?;
        Ok(show::answer(name)?)
    })
    .await?
    .end()
}
