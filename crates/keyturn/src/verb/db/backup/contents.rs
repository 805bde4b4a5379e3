//! What a dump of PostgreSQL holds, as `pg_restore --list` tells it, and what of that is restored aside: everything but
//! what a superuser alone may make. Extensions are made beforehand, by their names.

use local_farm::Extension;

/// Entries that rows do not need, and that only a superuser or a role with its own password could restore.
const LEFT_OUT: [&str; 2] = ["EVENT TRIGGER ", "USER MAPPING "];
/// The schema that the ledger has.
pub(super) const LEDGER_SCHEMA: &str = "keyturn";
/// How `pg_dump` writes an extension.
const MADE: &str = "CREATE EXTENSION IF NOT EXISTS ";

/// The entries of a dump: a number, two object ids, what it is, schema, name and owner, each on a line.
pub(super) struct Contents {
    lines: Vec<String>,
}

impl Contents {
    pub(super) fn new(listed: &str) -> Self {
        let lines = listed.lines().filter(|line| !line.is_empty() && !line.starts_with(';'));
        Self { lines: lines.map(ToOwned::to_owned).collect() }
    }

    /// The list of its extensions alone; `None` if it has none.
    pub(super) fn extensions(&self) -> Option<String> {
        let lines: Vec<&str> = self.lines().filter(|line| entry(line).starts_with("EXTENSION ")).collect();
        (!lines.is_empty()).then(|| lines.join("\n") + "\n")
    }

    /// The list of what is restored, once these extensions and their schemas were made.
    pub(super) fn without(&self, made: &[Extension]) -> String {
        let is_made = |schema: &str| made.iter().any(|extension| schema_is(schema, &extension.schema));
        let stays = |line: &&str| {
            let entry = entry(line);
            !entry.starts_with("EXTENSION ")
                && !LEFT_OUT.iter().any(|kind| entry.starts_with(kind))
                && !entry.strip_prefix("SCHEMA - ").is_some_and(is_made)
        };
        self.lines().filter(stays).fold(String::new(), |list, line| list + line + "\n")
    }

    /// What is put back one after the other.
    pub(super) fn parts(&self) -> Parts {
        let mut parts = Parts::default();
        for line in self.lines() {
            let part = match Schema::of(entry(line)) {
                Some(schema) if schema.is_ledger() => &mut parts.ledger,
                // The rights on a schema that an extension makes come with the extension.
                Some(schema) if schema.is_public() || self.makes(&schema) => &mut parts.schemas,
                Some(_) | None => &mut parts.others,
            };
            part.push_str(line);
            part.push('\n');
        }
        parts
    }

    fn makes(&self, schema: &Schema<'_>) -> bool {
        let made = format!("SCHEMA - {}", schema.named);
        self.lines().any(|line| entry(line) == made)
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}

/// Lists of the entries of a dump.
#[derive(Default)]
pub(super) struct Parts {
    /// Schemas, and the rights on them.
    pub(super) schemas: String,
    /// The same of the ledger's; empty without one.
    pub(super) ledger: String,
    /// Everything else, in whatever schema.
    pub(super) others: String,
}

/// An entry that makes a schema or says something about one.
struct Schema<'a> {
    /// Its name, then its owner.
    named: &'a str,
}

impl<'a> Schema<'a> {
    fn of(entry: &'a str) -> Option<Self> {
        let mut heads = ["SCHEMA - ", "ACL - SCHEMA ", "COMMENT - SCHEMA "].into_iter();
        heads.find_map(|head| entry.strip_prefix(head)).map(|named| Self { named })
    }

    /// A name may have spaces in it, and the ledger's has none; its owner is not expected to.
    fn is_ledger(&self) -> bool {
        self.named.split_once(' ').is_some_and(|(name, owner)| name == LEDGER_SCHEMA && !owner.contains(' '))
    }

    fn is_public(&self) -> bool {
        self.named.starts_with("public ")
    }
}

/// What stands behind `NUMBER; OID OID `.
fn entry(line: &str) -> &str {
    line.splitn(4, ' ').nth(3).unwrap_or_default()
}

/// Whether a name, which its owner may follow, is this one.
fn schema_is(named: &str, schema: &str) -> bool {
    named.strip_prefix(schema).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// The extensions that this script makes. It comes out of the dump, so nothing of it but names is taken from it; `None`
/// where it is not what `pg_dump` writes.
pub(super) fn extensions(script: &str) -> Option<Vec<Extension>> {
    let made = script.lines().filter_map(|line| line.strip_prefix(MADE));
    made.map(|rest| {
        let (name, rest) = identifier(rest)?;
        let (schema, rest) = identifier(rest.strip_prefix(" WITH SCHEMA ")?)?;
        (rest == ";").then_some(Extension { name, schema })
    })
    .collect()
}

/// A name as SQL writes it, and what stands behind it.
fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '$').unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    loop {
        let (before, behind) = rest.split_once('"')?;
        name.push_str(before);
        match behind.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = ";\n; Archive created at 2026-01-01\n;\n\
        7; 2615 16400 SCHEMA - geo app\n8; 2615 16401 SCHEMA - geometry app\n\
        2; 3079 16402 EXTENSION - postgis \n3460; 0 0 COMMENT - EXTENSION postgis \n\
        215; 1259 16388 TABLE public EVENT TRIGGER app\n3300; 3466 16500 EVENT TRIGGER - audit postgres\n";

    #[test]
    fn what_only_a_superuser_may_make_and_what_was_made_is_left_out() {
        let contents = Contents::new(LISTED);
        assert_eq!(contents.extensions().as_deref(), Some("2; 3079 16402 EXTENSION - postgis \n"));
        let made = [Extension { name: "postgis".to_owned(), schema: "geo".to_owned() }];
        let left = contents.without(&made);
        let kinds: Vec<&str> = left.lines().map(entry).collect();
        let expected = ["SCHEMA - geometry app", "COMMENT - EXTENSION postgis ", "TABLE public EVENT TRIGGER app"];
        assert_eq!(kinds, expected);
        assert_eq!(Contents::new("").extensions(), None);
    }

    #[test]
    fn schemas_and_their_rights_come_first_and_the_ledger_apart() {
        let listed = "7; 2615 1 SCHEMA - app vault_app\n8; 2615 2 SCHEMA - keyturn keyturn_agent\n\
                      9; 2615 3 SCHEMA - keyturn x vault_app\n215; 1259 4 TABLE app keyturn vault_app\n\
                      216; 1259 5 TABLE keyturn rotation keyturn_agent\n30; 0 0 ACL - SCHEMA app vault_app\n\
                      31; 0 0 ACL - SCHEMA keyturn keyturn_agent\n32; 0 0 ACL - SCHEMA public pg_database_owner\n\
                      33; 0 0 ACL - SCHEMA made_by_an_extension postgres\n";
        let parts = Contents::new(listed).parts();
        let check = |part: &str, expected: &[&str]| {
            let numbers: Vec<&str> = part.lines().filter_map(|line| Some(line.split_once(';')?.0)).collect();
            assert_eq!(numbers, expected);
        };
        check(&parts.schemas, &["7", "9", "30", "32"]);
        check(&parts.ledger, &["8", "31"]);
        check(&parts.others, &["215", "216", "33"]);
    }

    #[test]
    fn of_a_script_only_the_names_of_extensions_are_taken() {
        let found = extensions(
            "SET x = 1;\nCREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA public;\n\
             CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\" WITH SCHEMA \"a \"\"b\"\"\";\nDROP ROLE x;\n",
        );
        let names: Vec<(String, String)> =
            found.expect("it is what pg_dump writes").into_iter().map(|one| (one.name, one.schema)).collect();
        let text = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(names, [text("hstore", "public"), text("uuid-ossp", "a \"b\"")]);
        for broken in ["x WITH SCHEMA y; DROP ROLE z;", "x;", "\"x WITH SCHEMA y;", "x CASCADE WITH SCHEMA y;"] {
            assert_eq!(extensions(&format!("{MADE}{broken}")), None, "{broken}");
        }
    }
}
