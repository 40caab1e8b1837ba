//! What a manifest says of a database, with the host's variables in their places.

use refit_proto::package::{Database, Variables, expand as expanded};

use super::DatabaseError;

/// The same database, as it is on this host.
///
/// # Errors
/// A variable that is not there, or one that makes of a name what is none.
pub(super) fn expand(
    database: &Database,
    variables: &Variables,
) -> Result<Database, DatabaseError> {
    let mut database = database.clone();
    let texts: Vec<&mut String> = match &mut database {
        Database::Postgresql(it) => {
            let some = [&mut it.role, &mut it.host, &mut it.programs];
            let some = some.into_iter().filter_map(Option::as_mut);
            some.chain([&mut it.database, &mut it.user]).collect()
        }
        Database::Mysql(it) => {
            let some = [&mut it.socket, &mut it.options].into_iter().filter_map(Option::as_mut);
            some.chain([&mut it.database, &mut it.user]).collect()
        }
        Database::Sqlite(it) => vec![&mut it.path],
        Database::Command(it) => {
            let commands = [&mut it.dump, &mut it.check, &mut it.restore, &mut it.size];
            let words = commands.into_iter().flatten();
            words.chain([&mut it.user]).collect()
        }
    };
    for text in texts {
        *text = expanded(text, variables)?;
    }
    let checked = database.check().and_then(|()| is_named(&database));
    checked.map_err(|why| DatabaseError::Unfit { database: database.name().to_string(), why })?;
    Ok(database)
}

/// Whether no name holds a variable any more: what one holds is not expanded.
fn is_named(database: &Database) -> Result<(), String> {
    let names: Vec<&String> = match database {
        Database::Postgresql(it) => {
            [&it.database, &it.user].into_iter().chain(&it.role).chain(&it.host).collect()
        }
        Database::Mysql(it) => vec![&it.database, &it.user],
        Database::Sqlite(_) => Vec::new(),
        Database::Command(it) => vec![&it.user],
    };
    match names.into_iter().find(|name| name.contains(['$', '{', '}'])) {
        Some(name) => Err(format!("{name:?} is no name; what a variable holds is not expanded")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_makes_no_option_of_a_name() {
        let text = r#"{"kind":"mysql","name":"shop","database":"${DB}"}"#;
        let database: Database = serde_json::from_str(text).unwrap();
        let with = |value: &str| expand(&database, &[("DB".into(), value.into())].into());
        assert!(matches!(with("shop_2").unwrap(), Database::Mysql(it) if it.database == "shop_2"));
        for bad in ["--all", "a`; DROP", "", "a/b", "${X}"] {
            assert!(with(bad).is_err(), "{bad}");
        }
        assert!(expand(&database, &Variables::new()).is_err());
    }
}
