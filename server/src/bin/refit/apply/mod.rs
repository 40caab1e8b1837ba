//! `refit apply`: makes products and rings what a TOML file says. What widens or assigns is signed with
//! the policy key and evaluated by the hosts; what only narrows goes to the server.

mod calendar;
mod change;
mod file;
mod hours;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use refit_proto::{
    names::Product,
    package::{FileRef, PlanRules},
    policy::{LabelPolicy, ProductPolicy, words},
    servers::{SERVERS, ServersPolicy},
    trust::{
        KeyId, Role, TrustedSet, approval, edit::Draft, trusted_labels, trusted_policy,
        trusted_servers,
    },
    wire::{GetRolloutPolicyRequest, RolloutPolicy, SetRolloutPolicyRequest},
};
use tonic::Code;

use crate::{
    Context, confirm,
    conflict::Situation,
    connect::Connection,
    content,
    failure::refused,
    key, output,
    publish::{Carried, Change, carry_out},
    server_keys, servers, signing,
    trust::{self, authority},
};

/// Options of `refit apply`.
#[derive(clap::Args)]
#[command(after_help = "Example of a file:

  [[product]]
  name = \"payments\"

  [[product.ring]]
  name = \"pilot\"
  select = { ring = \"pilot\" }        # labels; several values: [\"a\", \"b\"]; or every_host = true
  waves = [1, 5]                     # one host, then five, then the rest
  max_in_flight = 2
  soak = \"36h\"
  halt = { failures = 1, percent = 20 }
  silence = \"15m\"
  update_limit = \"1h\"
  lease = \"10m\"
  poll = \"30s\"

  [product.plan]                     # what a release has to say of itself, by urgency
  normal = [\"goal\", \"owner\", \"impact\"]

  [product.persons.alice]            # kinds of approval by key; a ring asks for some with kinds = [..]
  alice = [\"technical\"]

  [labels.0123456789abcdef0123456789abcdef]   # a host's id
  ring = \"pilot\"

  [servers]                          # in order; hosts try them so
  addresses = [\"refit.example.org:7700\"]
  authorities = [\"ca.crt\"]           # as `refit-server ca show` prints them

Example:
  refit apply fleet.toml --dry-run")]
pub(crate) struct Args {
    /// The file.
    file: PathBuf,
    /// Only show what would change.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// A policy key; else those kept here.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let connection = Connection::open(context).await?;
    let set = trust::newest(context, &connection, &[Role::Policy]).await?;
    server_keys::follow(context, &server_keys::ask(&connection).await?, &set)?;
    let fleet = file::read(&args.file, &OwnKeys { context }, crate::now())?;
    let plan = Plan::make(context, &connection, &set, &fleet, &args.file).await?;
    if plan.lines.is_empty() {
        return output::line("nothing to change");
    }
    output::line(&plan.lines.join("\n"))?;
    if args.dry_run {
        return Ok(());
    }
    confirm::ask("apply this?", args.yes)?;
    if !plan.documents.is_empty() {
        let change = PolicyChange { documents: &plan.documents, keys: &args.keys };
        change.upload(&connection).await?;
        match carry_out(context, &connection, &change, set).await? {
            Carried::Out => {}
            // The limits are of rings that do not exist before that.
            Carried::Proposed(proposed) => {
                let again = "then give this command again, for what nobody signs";
                return output::line(&format!("{}\n{again}", proposed.in_words()));
            }
        }
        let set = trust::newest(context, &connection, &[Role::Policy]).await?;
        servers::follow(context, &connection, &set).await?;
    }
    for rollout in plan.rollouts {
        set_rollout(&connection, rollout).await?;
    }
    output::line("applied")
}

/// Keys by the words that people use here.
struct OwnKeys<'a> {
    context: &'a Context,
}

impl file::Keys for OwnKeys<'_> {
    fn of_person(&self, word: &str) -> anyhow::Result<KeyId> {
        match KeyId::parse(word) {
            Ok(id) => Ok(id),
            Err(_) => Ok(key::public(self.context, None, word)?.id()),
        }
    }

    fn gate(&self) -> anyhow::Result<KeyId> {
        let keys = server_keys::known(self.context)?.context(
            "a ring says gate = true, and the server's gate key is not known here\n\
             help: `refit trust init` notes it, and `refit trust adopt` fetches it",
        )?;
        Ok(server_keys::named(&keys, "gate")?.id())
    }
}

/// What would change.
#[derive(Default)]
struct Plan {
    /// In words.
    lines: Vec<String>,
    /// Documents of the policy role that change.
    documents: Vec<Document>,
    /// Rollout policies that change, each with the revision that it replaces.
    rollouts: Vec<RolloutPolicy>,
}

/// A document of the policy role.
struct Document {
    /// `payments.json`.
    name: String,
    bytes: Vec<u8>,
    /// What it replaces.
    before: Option<Vec<u8>>,
}

impl Document {
    fn own(&self) -> (String, FileRef) {
        (format!("policy/{}", self.name), FileRef::to(&self.bytes))
    }
}

impl Plan {
    async fn make(
        context: &Context,
        connection: &Connection,
        set: &TrustedSet,
        fleet: &file::Fleet,
        described: &Path,
    ) -> anyhow::Result<Plan> {
        authority(set, &Role::Policy)?;
        let mut plan = Plan::default();
        for wanted in &fleet.products {
            let name = format!("{}.json", wanted.policy.product);
            let held = signed(connection, set, &name, ProductPolicy::MAX_LENGTH).await?;
            let before = held.as_ref().map(|it| trusted_policy(set, &wanted.policy.product, it));
            let before = before.transpose()?;
            if let Some(flaw) = approval::arrangement(&wanted.policy, set.targets()).first() {
                bail!("{flaw}");
            }
            let lines = words::of_policy(before.as_ref(), &wanted.policy);
            let bytes = wanted.policy.to_bytes();
            plan.add_document(lines, Document { name, bytes, before: held });
            let before = rollout(connection, &wanted.rollout.product).await?;
            plan.add_rollout(before.as_ref(), &wanted.rollout);
        }
        if let Some(labels) = &fleet.labels {
            let name = "labels.json";
            let held = signed(connection, set, name, LabelPolicy::MAX_LENGTH).await?;
            let before = held.as_ref().map(|it| trusted_labels(set, it)).transpose()?;
            let lines = words::of_labels(before.as_ref(), labels);
            let (name, bytes) = (name.to_owned(), labels.to_bytes());
            plan.add_document(lines, Document { name, bytes, before: held });
        }
        if let Some(wanted) = &fleet.servers {
            let after = wanted.document(described, &servers::authorities(context)?)?;
            servers::check_shown(connection, &after).await?;
            let held = signed(connection, set, SERVERS, ServersPolicy::MAX_LENGTH).await?;
            let before = held.as_ref().map(|it| trusted_servers(set, it)).transpose()?;
            let lines = words::of_servers(before.as_ref(), &after);
            let (name, bytes) = (SERVERS.to_owned(), after.to_bytes());
            plan.add_document(lines, Document { name, bytes, before: held });
        }
        Ok(plan)
    }

    fn add_document(&mut self, lines: Vec<String>, document: Document) {
        if !lines.is_empty() {
            self.lines.extend(lines);
            self.documents.push(document);
        }
    }

    fn add_rollout(&mut self, before: Option<&RolloutPolicy>, after: &RolloutPolicy) {
        let lines = change::of_rollout(before, after);
        if !lines.is_empty() {
            self.lines.extend(lines);
            let revision = before.map_or(0, |before| before.revision);
            self.rollouts.push(RolloutPolicy { revision, ..after.clone() });
        }
    }
}

/// The policy of each product, as the policy role signed it; one that this program can't follow is left out.
pub(crate) async fn policies(
    connection: &Connection,
    set: &TrustedSet,
) -> anyhow::Result<Vec<(ProductPolicy, Vec<u8>)>> {
    let mut policies = Vec::new();
    for path in set.delegated(&Role::Policy).iter().flat_map(|policy| policy.targets.keys()) {
        let name = path.strip_prefix("policy/").unwrap_or(path);
        let Some(Ok(product)) = name.strip_suffix(".json").map(Product::parse) else { continue };
        let Some(bytes) = signed(connection, set, name, ProductPolicy::MAX_LENGTH).await? else {
            continue;
        };
        if let Ok(policy) = trusted_policy(set, &product, &bytes) {
            policies.push((policy, bytes));
        }
    }
    Ok(policies)
}

/// The policy role's next file, in which the server's gate key is another one; nothing where no product
/// names it. The documents are there before anybody signs for them.
pub(crate) async fn with_gate_key(
    context: &Context,
    connection: &Connection,
    set: &TrustedSet,
    (old, new): (KeyId, KeyId),
) -> anyhow::Result<Option<Draft>> {
    let mut documents = Vec::new();
    for (mut policy, bytes) in policies(connection, set).await? {
        if policy.gate_key == Some(old) {
            policy.gate_key = Some(new);
            let (name, before) = (format!("{}.json", policy.product), Some(bytes));
            documents.push(Document { name, bytes: policy.to_bytes(), before });
        }
    }
    if documents.is_empty() {
        return Ok(None);
    }
    let mut draft = signing::draft(context, set, Role::Policy)?;
    for Document { name, bytes, .. } in &documents {
        draft.set_policy(name, bytes)?;
    }
    PolicyChange { documents: &documents, keys: &[] }.upload(connection).await?;
    Ok(Some(draft))
}

/// The bytes of a document that the policy role signs, if it signs one of that name.
async fn signed(
    connection: &Connection,
    set: &TrustedSet,
    name: &str,
    limit: u64,
) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(file) = set.policy_target(name) else { return Ok(None) };
    let digest = file.digest().context("the policy is signed without a SHA-256")?;
    Ok(Some(content::fetch(connection, digest, file.length, limit).await?))
}

/// What the policy of a product asks of change plans, as the server holds it.
pub(crate) async fn plan_rules(
    connection: &Connection,
    product: &Product,
) -> anyhow::Result<PlanRules> {
    let Some(held) = rollout(connection, product.as_str()).await? else {
        return Ok(PlanRules::default());
    };
    let newer =
        "the server asks of change plans for what this command does not know\nhelp: update it";
    PlanRules::try_from(held.plan_rules).context(newer)
}

/// The same, as a fleet file says.
pub(crate) fn plan_rules_of_file(path: &Path, product: &Product) -> anyhow::Result<PlanRules> {
    file::plan_rules(path, product)
}

async fn rollout(connection: &Connection, product: &str) -> anyhow::Result<Option<RolloutPolicy>> {
    let request = GetRolloutPolicyRequest { product: product.to_owned() };
    match connection.admin().get_rollout_policy(request).await {
        Ok(reply) => Ok(reply.into_inner().policy),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(refused(format!("read the limits of {product}"))(status)),
    }
}

async fn set_rollout(connection: &Connection, policy: RolloutPolicy) -> anyhow::Result<()> {
    let product = policy.product.clone();
    let request =
        SetRolloutPolicyRequest { replaces_revision: policy.revision, policy: Some(policy) };
    match connection.admin().set_rollout_policy(request).await {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::Aborted => bail!(
            "somebody changed the limits of {product} meanwhile: {}\n\
             help: give the command again; it shows what would change now",
            status.message()
        ),
        Err(status) => Err(refused(format!("set the limits of {product}"))(status)),
    }
}

/// Documents in the policy role, content before the file that names it.
struct PolicyChange<'a> {
    documents: &'a [Document],
    keys: &'a [String],
}

impl PolicyChange<'_> {
    async fn upload(&self, connection: &Connection) -> anyhow::Result<()> {
        for document in self.documents {
            content::upload_bytes(connection, document.bytes.clone()).await?;
        }
        Ok(())
    }
}

impl Change for PolicyChange<'_> {
    fn role(&self) -> Role {
        Role::Policy
    }

    fn act(&self) -> String {
        "send the policy".to_owned()
    }

    fn file(&self, context: &Context, set: &TrustedSet, _: u32) -> anyhow::Result<Vec<u8>> {
        let mut draft = signing::draft(context, set, Role::Policy)?;
        for Document { name, bytes, .. } in self.documents {
            draft.set_policy(name, bytes)?;
        }
        signing::signed(context, set, &draft, self.keys)
    }

    fn documents(&self) -> Vec<Vec<u8>> {
        let both = |document: &Document| [Some(document.bytes.clone()), document.before.clone()];
        self.documents.iter().flat_map(both).flatten().collect()
    }

    fn situation(&self, base: &TrustedSet, newest: &TrustedSet) -> Situation {
        let own: Vec<_> = self.documents.iter().map(Document::own).collect();
        let of = |set: &TrustedSet| set.delegated(&Role::Policy).cloned();
        Situation::of_targets(of(base).as_deref(), of(newest).as_deref(), &own)
    }
}
