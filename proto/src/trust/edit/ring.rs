//! Promotions: what a ring's next file names. The release before becomes the one to return to, barriers
//! stay, and the rest is dropped, so that whoever takes over a server can choose between two releases
//! and not among all.

use serde_json::{Map, Value, json};

use super::{Draft, EditError};
use crate::{
    names::{Product, RingName, Version},
    trust::{
        metadata::{TargetFile, Targets},
        promotion::{self, Promotion, RingFile, Standing, Terms},
        role::Role,
    },
};

/// What a ring returns to after a promotion.
#[derive(Clone, Copy)]
enum NextBack {
    /// What was current until now.
    Current,
    /// What it returned to until now.
    Unchanged,
}

impl Draft {
    /// Makes a release the ring's current one. `releases` is the product's verified release file,
    /// `counter` the release's counter as its document says it.
    ///
    /// What was current becomes `back`; a `back` or barrier that was withdrawn meanwhile is dropped.
    ///
    /// # Errors
    /// If the release is not signed, or the floor is above its counter.
    pub fn promote(
        &mut self,
        releases: &Targets,
        version: &Version,
        counter: u64,
        terms: Terms,
    ) -> Result<(), EditError> {
        self.make_current(releases, version, counter, terms, NextBack::Current)
    }

    /// The same over a release that the ring has not proven: `back` stays what it is. A ring whose
    /// newest release failed must not have that release as its way back.
    ///
    /// # Errors
    /// As for [`Draft::promote`].
    pub fn promote_over_unproven(
        &mut self,
        releases: &Targets,
        version: &Version,
        counter: u64,
        terms: Terms,
    ) -> Result<(), EditError> {
        self.make_current(releases, version, counter, terms, NextBack::Unchanged)
    }

    fn make_current(
        &mut self,
        releases: &Targets,
        version: &Version,
        counter: u64,
        terms: Terms,
        next_back: NextBack,
    ) -> Result<(), EditError> {
        let (product, ring) = self.ring()?;
        if let Some(floor) = terms.min_release_counter.filter(|floor| *floor > counter) {
            let version = version.clone();
            return Err(EditError::FloorTooHigh { version, floor, counter });
        }
        let path = promotion::release_path(&product, version);
        let released = releases.targets.get(&path).ok_or_else(|| {
            let role = Role::Release(product.clone());
            EditError::NotThere { role, what: format!("release {version}") }
        })?;
        let before = RingFile::read(&product, &ring, &self.targets()?)?;
        let is_released = |promotion: &&Promotion| {
            let path = promotion::release_path(&product, &promotion.version);
            releases.targets.get(&path).is_some_and(|file| file.same_bytes(promotion.target()))
        };
        let others = |promotion: &&Promotion| promotion.version != *version;
        // Promoted again, with other terms, it must not become its own way back.
        let promoted_again = before.current.as_ref().is_some_and(|c| c.version == *version);
        let back = match next_back {
            NextBack::Current if !promoted_again => &before.current,
            NextBack::Current | NextBack::Unchanged => &before.back,
        };

        let mut targets = Map::new();
        for barrier in before.barriers.iter().filter(is_released).filter(others) {
            self.carry(&mut targets, &product, &ring, barrier, Standing::Barrier);
        }
        if let Some(back) = back.iter().filter(is_released).find(others) {
            self.carry(&mut targets, &product, &ring, back, Standing::Back);
        }
        let terms = Terms { standing: Standing::Current, ..terms };
        let path = promotion::promotion_path(&product, &ring, version);
        targets.insert(path, promotion_target(released, &terms));
        self.signed.insert("targets".into(), Value::Object(targets));
        Ok(())
    }

    /// Changes where a release stands that the ring names already: to keep one as a barrier, for example.
    ///
    /// # Errors
    /// If the ring does not name it.
    pub fn set_standing(&mut self, version: &Version, standing: Standing) -> Result<(), EditError> {
        let (product, ring) = self.ring()?;
        let path = promotion::promotion_path(&product, &ring, version);
        let custom = self
            .signed
            .get_mut("targets")
            .and_then(|targets| targets.get_mut(&path))
            .and_then(|target| target.get_mut("custom"));
        match custom {
            Some(Value::Object(custom)) => {
                custom.insert("standing".into(), json!(standing));
                Ok(())
            }
            _ => Err(self.not_there(format!("release {version}"))),
        }
    }

    /// Takes a release off the ring.
    ///
    /// # Errors
    /// If the ring does not name it.
    pub fn demote(&mut self, version: &Version) -> Result<(), EditError> {
        let (product, ring) = self.ring()?;
        self.remove_target(&promotion::promotion_path(&product, &ring, version))
    }

    fn ring(&self) -> Result<(Product, RingName), EditError> {
        match &self.role {
            Role::Ring(product, ring) => Ok((product.clone(), ring.clone())),
            _ => Err(EditError::WrongRole { role: self.role.clone(), what: "promotions" }),
        }
    }

    /// Carries a promotion on as it was signed, with another standing. A `retry` has done its work when
    /// its release was current, and must not lift a later quarantine.
    fn carry(
        &self,
        targets: &mut Map<String, Value>,
        product: &Product,
        ring: &RingName,
        promotion: &Promotion,
        standing: Standing,
    ) {
        let path = promotion::promotion_path(product, ring, &promotion.version);
        let before = self.signed.get("targets").and_then(|targets| targets.get(&path));
        let mut target = before
            .cloned()
            .unwrap_or_else(|| promotion_target(promotion.target(), &promotion.terms));
        if let Some(Value::Object(custom)) = target.get_mut("custom") {
            custom.insert("standing".into(), json!(standing));
            custom.remove("retry");
        }
        targets.insert(path, target);
    }
}

fn promotion_target(released: &TargetFile, terms: &Terms) -> Value {
    json!({ "length": released.length, "hashes": released.hashes.to_value(), "custom": terms })
}
