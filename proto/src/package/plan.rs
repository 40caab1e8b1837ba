//! The change plan of a release, as an operating procedure asks for one, and which parts of it a product's
//! policy asks for. It is signed with the release: who reads it on any side reads the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::Release;
use crate::wire;

/// Why and how a change is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangePlan {
    /// What the release is for, in a sentence.
    pub goal: String,
    /// What kind of change that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<ChangeKind>,
    /// Who answers for it.
    pub owner: String,
    /// How soon it is needed.
    pub urgency: Urgency,
    /// What users and operators will notice.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub impact: String,
    /// What and who is needed for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resources: String,
    /// When which step is meant to happen.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub timeline: String,
    /// What happens when it fails.
    pub way_back: WayBack,
    /// Where the steps for people are written down: an address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub runbook: String,
}

/// What kind of change a release is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It mends something.
    Defect,
    /// It can more.
    Feature,
    /// It closes a hole.
    Security,
    /// It goes on working with something else that changes.
    Compatibility,
}

impl ChangeKind {
    /// The word in the document.
    pub fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Defect => "defect",
            ChangeKind::Feature => "feature",
            ChangeKind::Security => "security",
            ChangeKind::Compatibility => "compatibility",
        }
    }
}

/// How soon a release is needed.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Urgency {
    /// In its turn.
    #[default]
    Normal,
    /// Before others.
    High,
    /// Now.
    Emergency,
}

impl Urgency {
    /// All of them.
    pub const ALL: [Urgency; 3] = [Urgency::Normal, Urgency::High, Urgency::Emergency];

    /// The word in the document.
    pub fn as_str(self) -> &'static str {
        match self {
            Urgency::Normal => "normal",
            Urgency::High => "high",
            Urgency::Emergency => "emergency",
        }
    }

    /// By its word.
    pub fn named(word: &str) -> Option<Urgency> {
        Urgency::ALL.into_iter().find(|urgency| urgency.as_str() == word)
    }
}

/// What a host does when a release fails its probation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WayBack {
    /// It goes back by itself.
    #[default]
    Automatic,
    /// There is none: a failed probation ends as Stuck, and people take over.
    None,
}

/// A part of a release that a policy may ask for: of its plan, or what it brings for users. Urgency and way
/// back always stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlanField {
    /// [`ChangePlan::goal`].
    Goal,
    /// [`ChangePlan::kind`].
    Kind,
    /// [`ChangePlan::owner`].
    Owner,
    /// [`ChangePlan::impact`].
    Impact,
    /// [`ChangePlan::resources`].
    Resources,
    /// [`ChangePlan::timeline`].
    Timeline,
    /// [`ChangePlan::runbook`].
    Runbook,
    /// What is new, for users.
    Notes,
    /// Documents for users.
    Documents,
}

impl PlanField {
    /// All of them, in the order in which people are shown them.
    pub const ALL: [PlanField; 9] = [
        PlanField::Goal,
        PlanField::Kind,
        PlanField::Owner,
        PlanField::Impact,
        PlanField::Resources,
        PlanField::Timeline,
        PlanField::Runbook,
        PlanField::Notes,
        PlanField::Documents,
    ];

    /// The word in a policy, and in `[plan]` of refit.toml where it stands there.
    pub fn as_str(self) -> &'static str {
        match self {
            PlanField::Goal => "goal",
            PlanField::Kind => "kind",
            PlanField::Owner => "owner",
            PlanField::Impact => "impact",
            PlanField::Resources => "resources",
            PlanField::Timeline => "timeline",
            PlanField::Runbook => "runbook",
            PlanField::Notes => "notes",
            PlanField::Documents => "documents",
        }
    }

    /// By its word.
    pub fn named(word: &str) -> Option<PlanField> {
        PlanField::ALL.into_iter().find(|field| field.as_str() == word)
    }

    /// What the release says there; `None` where it says nothing.
    pub fn said(self, release: &Release) -> Option<String> {
        let plan = &release.plan;
        let text = match self {
            PlanField::Goal => plan.goal.clone(),
            PlanField::Kind => plan.kind.map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
            PlanField::Owner => plan.owner.clone(),
            PlanField::Impact => plan.impact.clone(),
            PlanField::Resources => plan.resources.clone(),
            PlanField::Timeline => plan.timeline.clone(),
            PlanField::Runbook => plan.runbook.clone(),
            PlanField::Notes => release.notes.clone(),
            PlanField::Documents => release.links.join(" "),
        };
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

impl fmt::Display for PlanField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which parts a release of each urgency must have before it may be promoted anywhere. Nothing is asked of
/// an urgency that is not named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlanRules(pub BTreeMap<Urgency, BTreeSet<PlanField>>);

/// A word in rules for change plans that this program does not know, or an urgency that stands twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the rules for change plans name {word:?}, which is not known here, or twice")]
pub struct UnknownRule {
    /// What stands there, cut to 80 letters.
    pub word: String,
}

impl TryFrom<Vec<wire::PlanRule>> for PlanRules {
    type Error = UnknownRule;

    fn try_from(rules: Vec<wire::PlanRule>) -> Result<PlanRules, UnknownRule> {
        let unknown = |word: &str| UnknownRule { word: word.chars().take(80).collect() };
        let mut known = BTreeMap::new();
        for wire::PlanRule { urgency: word, fields } in rules {
            let urgency = Urgency::named(&word).ok_or_else(|| unknown(&word))?;
            let mut named = BTreeSet::new();
            for word in &fields {
                named.insert(PlanField::named(word).ok_or_else(|| unknown(word))?);
            }
            if known.insert(urgency, named).is_some() {
                return Err(unknown(&word));
            }
        }
        Ok(PlanRules(known))
    }
}

impl From<PlanRules> for Vec<wire::PlanRule> {
    fn from(rules: PlanRules) -> Vec<wire::PlanRule> {
        let words = |fields: BTreeSet<PlanField>| {
            fields.into_iter().map(|field| field.as_str().to_owned()).collect()
        };
        let rule = |(urgency, fields): (Urgency, _)| wire::PlanRule {
            urgency: urgency.as_str().to_owned(),
            fields: words(fields),
        };
        rules.0.into_iter().map(rule).collect()
    }
}

impl PlanRules {
    /// What is asked of a release of this urgency.
    pub fn asked(&self, urgency: Urgency) -> impl Iterator<Item = PlanField> {
        self.0.get(&urgency).into_iter().flatten().copied()
    }

    /// What a release lacks of it.
    pub fn missing(&self, release: &Release) -> Vec<PlanField> {
        let asked = self.asked(release.plan.urgency);
        asked.filter(|field| field.said(release).is_none()).collect()
    }

    /// Whether nothing is asked of anything.
    pub fn is_empty(&self) -> bool {
        self.0.values().all(BTreeSet::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Product, Version};

    fn release() -> Release {
        let (product, version) = (Product::parse("p").unwrap(), Version::parse("1").unwrap());
        Release::new(product, version, 1, BTreeMap::new())
    }

    /// Says one thing.
    fn say(release: &mut Release, field: PlanField, text: &str) {
        let plan = &mut release.plan;
        match field {
            PlanField::Goal => plan.goal = text.into(),
            PlanField::Kind => plan.kind = Some(ChangeKind::Security),
            PlanField::Owner => plan.owner = text.into(),
            PlanField::Impact => plan.impact = text.into(),
            PlanField::Resources => plan.resources = text.into(),
            PlanField::Timeline => plan.timeline = text.into(),
            PlanField::Runbook => plan.runbook = text.into(),
            PlanField::Notes => release.notes = text.into(),
            PlanField::Documents => release.links = vec![text.into()],
        }
    }

    #[test]
    fn each_part_is_missed_alone_and_blank_is_nothing() {
        for field in PlanField::ALL {
            let rules = PlanRules(BTreeMap::from([(Urgency::High, BTreeSet::from([field]))]));
            let mut release = release();
            assert_eq!(rules.missing(&release), [], "nothing is asked of a normal one");
            release.plan.urgency = Urgency::High;
            assert_eq!(rules.missing(&release), [field]);
            if field != PlanField::Kind {
                say(&mut release, field, " \n\t ");
                assert_eq!(rules.missing(&release), [field]);
            }
            say(&mut release, field, "x");
            assert_eq!(rules.missing(&release), []);
        }
    }

    #[test]
    fn words_lead_back_to_what_they_mean() {
        for field in PlanField::ALL {
            assert_eq!(PlanField::named(field.as_str()), Some(field));
            assert_eq!(serde_json::to_value(field).unwrap(), field.as_str());
        }
        for urgency in Urgency::ALL {
            assert_eq!(Urgency::named(urgency.as_str()), Some(urgency));
            assert_eq!(serde_json::to_value(urgency).unwrap(), urgency.as_str());
        }
        assert_eq!((PlanField::named("gaol"), Urgency::named("")), (None, None));
    }

    #[test]
    fn a_plan_that_says_no_more_than_before_has_the_bytes_of_before() {
        let plan = ChangePlan { goal: "x".into(), owner: "y".into(), ..ChangePlan::default() };
        let bytes = serde_json::to_string(&plan).unwrap();
        let before = r#"{"goal":"x","owner":"y","urgency":"normal","way_back":"automatic"}"#;
        assert_eq!(bytes, before);
    }
}
