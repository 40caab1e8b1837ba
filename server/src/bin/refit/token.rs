//! `refit token`: tokens with which hosts, people and CI jobs get their first certificate. They are made
//! on this side, from this side's own copy of the root; the server learns a hash of the secret only.

use anyhow::{Context as _, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use refit_proto::{
    names::{Digest, LabelName, LabelValue, Labels, PersonName},
    token::{Subject, Token},
    wire::{CreateTokenRequest, HostSubject, PersonSubject, create_token_request},
};

use crate::{Context, connect::Connection, duration, failure::refused, output, servers, trust};

/// Options of `refit token`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Make a token and print it.
    #[command(after_help = "Examples:
  refit token create --label region=eu --label role=db --uses 20 --expires 24h
  refit token create --person bob --role operator --role viewer
  refit token create --ci build --role publisher")]
    Create(Create),
}

#[derive(clap::Args)]
struct Create {
    /// For hosts: a label that the host gets.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label, conflicts_with_all = ["person", "ci"])]
    labels: Vec<(LabelName, LabelValue)>,
    /// For a person.
    #[arg(long, value_name = "NAME", requires = "roles")]
    person: Option<PersonName>,
    /// For a CI job.
    #[arg(long, value_name = "NAME", conflicts_with = "person", requires = "roles")]
    ci: Option<PersonName>,
    /// What the person or CI job may do.
    #[arg(long = "role", value_enum)]
    roles: Vec<PersonRole>,
    /// How many hosts may use it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    uses: u32,
    /// Until when: a span from now, or a moment (RFC 3339).
    #[arg(long, default_value = "24h")]
    expires: String,
}

/// What people and CI jobs may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PersonRole {
    Administrator,
    Approver,
    Operator,
    Publisher,
    Viewer,
}

impl PersonRole {
    fn as_str(self) -> &'static str {
        match self {
            PersonRole::Administrator => "administrator",
            PersonRole::Approver => "approver",
            PersonRole::Operator => "operator",
            PersonRole::Publisher => "publisher",
            PersonRole::Viewer => "viewer",
        }
    }
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    match args.verb {
        Verb::Create(create) => make(context, create).await,
    }
}

async fn make(context: &Context, create: Create) -> anyhow::Result<()> {
    let expires = expiry(&create.expires, context.now)?;
    let subject = subject(context, &create)?;
    if !matches!(subject, Subject::Host { .. }) {
        ensure!(
            create.uses == 1,
            "a token for a person or CI job works once\nhelp: leave --uses out"
        );
    }
    let (address, authority) = servers::for_tokens(context)?;
    let token = Token::new(subject, address, &authority, expires)
        .context("the system gives no random bytes")?;
    let reply = Connection::open(context)
        .await?
        .admin()
        .create_token(request(&token, &create))
        .await
        .map_err(refused("register the token"))?
        .into_inner();
    ensure!(
        reply.ca_certificate.is_empty() || reply.ca_certificate == authority,
        "the server names another certificate authority than the one that we know\n\
         help: do not use the token; find out who answers at the server's address"
    );
    output::line(&token.to_text())
}

fn subject(context: &Context, create: &Create) -> anyhow::Result<Subject> {
    Ok(match (&create.person, &create.ci) {
        (Some(name), None) => Subject::Person { name: name.clone() },
        (None, Some(name)) => Subject::Ci { name: name.clone() },
        (Some(_), Some(_)) => bail!("a token is for a person or for a CI job, not for both"),
        (None, None) => {
            ensure!(
                create.roles.is_empty(),
                "roles are for people and CI jobs\nhelp: add --person NAME"
            );
            Subject::Host {
                labels: labels(&create.labels)?,
                root: trust::own_root_digest(context)?,
            }
        }
    })
}

fn request(token: &Token, create: &Create) -> CreateTokenRequest {
    let person = |name: &PersonName, kind: &str| {
        create_token_request::Subject::Person(PersonSubject {
            name: name.to_string(),
            kind: kind.to_owned(),
            roles: create.roles.iter().map(|role| role.as_str().to_owned()).collect(),
        })
    };
    let subject = match &token.subject {
        Subject::Host { labels, root } => host(labels, root),
        Subject::Person { name } => person(name, "person"),
        Subject::Ci { name } => person(name, "ci"),
    };
    CreateTokenRequest {
        token_id: token.id.clone(),
        secret_sha256: token.secret_sha256().as_bytes().to_vec(),
        subject: Some(subject),
        uses: create.uses,
        expires: token.expires.to_string(),
    }
}

fn host(labels: &Labels, root: &Digest) -> create_token_request::Subject {
    let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    create_token_request::Subject::Host(HostSubject {
        labels: labels.collect(),
        root_sha256: root.to_string(),
    })
}

fn label(text: &str) -> Result<(LabelName, LabelValue), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((
        name.parse().map_err(|e: refit_proto::names::NameError| e.to_string())?,
        value.parse().map_err(|e: refit_proto::names::NameError| e.to_string())?,
    ))
}

fn labels(pairs: &[(LabelName, LabelValue)]) -> anyhow::Result<Labels> {
    let mut labels = Labels::new();
    for (name, value) in pairs {
        let before = labels.insert(name.clone(), value.clone());
        ensure!(before.is_none(), "label {name} is given twice");
    }
    Ok(labels)
}

/// A span from now, or a moment to come. Whole seconds, as every reader understands them.
fn expiry(text: &str, now: Timestamp) -> anyhow::Result<Timestamp> {
    let moment = match text.parse::<Timestamp>() {
        Ok(moment) => moment,
        Err(_) => {
            let seconds = duration::seconds(text)
                .context("--expires takes a span or a moment such as 2030-01-01T00:00:00Z")?;
            let span = SignedDuration::from_secs(i64::try_from(seconds)?);
            now.checked_add(span).context("--expires lies too far ahead")?
        }
    };
    ensure!(moment > now, "a token that expires at {moment} is of no use any more");
    Ok(Timestamp::from_second(moment.as_second())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_a_span_or_a_moment_and_never_past() {
        let now: Timestamp = "2026-01-01T00:00:00.5Z".parse().unwrap();
        let at = |text| expiry(text, now).map(|moment| moment.to_string()).ok();
        assert_eq!(at("24h").as_deref(), Some("2026-01-02T00:00:00Z"));
        assert_eq!(at("7d").as_deref(), Some("2026-01-08T00:00:00Z"));
        assert_eq!(at("2030-01-01T00:00:00Z").as_deref(), Some("2030-01-01T00:00:00Z"));
        for bad in ["0s", "2020-01-01T00:00:00Z", "tomorrow", "-1h", "99999999999h", ""] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_server_is_told_the_hash_of_the_secret_and_never_the_secret() {
        let pair = label("region=eu").unwrap();
        let create = Create {
            labels: vec![pair.clone()],
            person: None,
            ci: None,
            roles: vec![],
            uses: 3,
            expires: String::new(),
        };
        let subject = Subject::Host { labels: labels(&[pair]).unwrap(), root: Digest::of(b"root") };
        let expires = "2030-01-01T00:00:00Z".parse().unwrap();
        let token = Token::new(subject, "refit:7700".into(), b"ca", expires).unwrap();
        let request = request(&token, &create);
        assert_eq!(request.secret_sha256, Digest::of(token.secret()).as_bytes());
        let sent = prost::Message::encode_to_vec(&request);
        let secret = token.secret();
        assert!(!sent.windows(secret.len()).any(|part| part == secret));
        let Some(create_token_request::Subject::Host(host)) = request.subject else { panic!() };
        assert_eq!(host.labels["region"], "eu");
        assert_eq!(host.root_sha256, Digest::of(b"root").to_string());
        assert_eq!((request.uses, request.expires.as_str()), (3, "2030-01-01T00:00:00Z"));
    }

    #[test]
    fn a_label_is_given_once_and_well_formed() {
        assert!(label("region").is_err());
        assert!(label("Region=eu").is_err());
        assert!(label("region=").is_err());
        let pair = label("region=eu").unwrap();
        assert!(labels(&[pair.clone(), pair]).is_err());
    }
}
