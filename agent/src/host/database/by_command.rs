//! A database that only commands of the publisher's know.

use std::{io, path::Path};

use refit_proto::package::ByCommand;

use super::{
    super::piped::{Piped, Take},
    DatabaseError, Size,
    compare::Contents,
    failed,
    tool::Tools,
};

pub(super) struct Recipe {
    it: ByCommand,
    tools: Tools,
}

impl Recipe {
    pub(super) fn new(it: &ByCommand, tools: Tools) -> Recipe {
        Recipe { it: it.clone(), tools }
    }

    fn tool(&self, words: &[String]) -> Piped {
        // Each has a program: the manifest was checked.
        let (program, arguments) = words.split_first().map_or(("", &[][..]), |(p, a)| (p, a));
        self.tools.run(Path::new(program), arguments, self.tools.longest())
    }
}

impl super::Recipe for Recipe {
    fn size(&self) -> Result<Option<Size>, DatabaseError> {
        if self.it.size.is_empty() {
            return Ok(Some(Size { dump: 0, at: None }));
        }
        let answer = self.tool(&self.it.size).ask("");
        let answer = answer.map_err(failed(self.tools.database(), "asked for its size"))?;
        let said = String::from_utf8_lossy(&answer);
        match said.trim().parse() {
            Ok(dump) => Ok(Some(Size { dump, at: None })),
            Err(_) => Err(DatabaseError::Tool {
                database: self.it.name.to_string(),
                action: "asked for its size",
                why: format!("it says {:?}, which is no number", said.trim()),
            }),
        }
    }

    fn look(&self) -> Result<Contents, DatabaseError> {
        Ok(Contents::new())
    }

    fn dump(&self, _: &str, take: Take<'_>) -> Result<Option<u64>, DatabaseError> {
        let dumped = self.tool(&self.it.dump).run(None, take);
        dumped.map_err(failed(self.tools.database(), "dumped"))?;
        Ok(None)
    }

    fn load(
        &self,
        _: &str,
        dump: Box<dyn io::Read + Send>,
    ) -> Result<Option<Contents>, DatabaseError> {
        let checked = self.tool(&self.it.check).run(Some(dump), &mut |_| Ok(()));
        checked.map_err(failed(self.tools.database(), "checked"))?;
        Ok(None)
    }

    fn clear(&self, _: &str) -> Result<(), DatabaseError> {
        Ok(())
    }
}
