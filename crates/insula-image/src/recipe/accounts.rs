//! Users of a recipe, written into the four account files of a root.

use serde::Serialize;

/// A user of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// Name.
    pub name: String,
    /// Number; the first free one from 1000 when absent. The user's own group has the same.
    pub uid: Option<u32>,
    /// Home directory, which the build makes.
    pub home: String,
    /// Shell.
    pub shell: String,
    /// Free text.
    pub comment: String,
    /// Further groups, which must be there.
    pub groups: Vec<String>,
}

/// A user that cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// The base has that user or group.
    #[error("user {name} exists in the base already")]
    Exists {
        /// The user.
        name: String,
    },
    /// Another user or group has that number.
    #[error("user {name}: number {uid} belongs to another user or group of the base")]
    UidTaken {
        /// The user.
        name: String,
        /// The number.
        uid: u32,
    },
    /// One of its groups is not there.
    #[error("user {name}: there is no group {group}")]
    NoGroup {
        /// The user.
        name: String,
        /// The group.
        group: String,
    },
    /// No number below 65,536 is free.
    #[error("user {name}: no number is free")]
    Full {
        /// The user.
        name: String,
    },
    /// An account file is no text.
    #[error("/{file} is no text")]
    NotText {
        /// The file.
        file: &'static str,
    },
}

/// Paths of the account files, in the order of [`Accounts`]' fields.
pub(super) const ACCOUNT_FILES: [&str; 4] = ["etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"];
/// Most bytes of one.
pub(super) const ACCOUNT_FILE_BYTES_MAX: u64 = 4 << 20;

/// The account files of a root. A base without passwd or group gets root in them; one without the shadow files gets
/// none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accounts {
    passwd: String,
    group: String,
    shadow: Option<String>,
    gshadow: Option<String>,
}

const SECONDS_PER_DAY: u64 = 86_400;
const UID_FIRST: u32 = 1000;
const UID_LAST: u32 = 65_533;

impl Accounts {
    /// Reads what the base has, in the order of [`ACCOUNT_FILES`].
    pub(super) fn parse(files: [Option<Vec<u8>>; 4]) -> Result<Self, AccountError> {
        let mut texts = Vec::new();
        for (content, file) in files.into_iter().zip(ACCOUNT_FILES) {
            let text = content.map(String::from_utf8).transpose().map_err(|_| AccountError::NotText { file })?;
            texts.push(text.map(|text| if text.is_empty() || text.ends_with('\n') { text } else { text + "\n" }));
        }
        let mut texts = texts.into_iter();
        let mut next = || texts.next().flatten();
        Ok(Self {
            passwd: next().unwrap_or_else(|| "root:x:0:0:root:/root:/bin/sh\n".to_owned()),
            group: next().unwrap_or_else(|| "root:x:0:\n".to_owned()),
            shadow: next(),
            gshadow: next(),
        })
    }

    /// Adds a user with a group of its name and a locked password; gives its number. `epoch` is in seconds.
    pub(super) fn add(&mut self, user: &User, epoch: u64) -> Result<u32, AccountError> {
        let name = &user.name;
        let named = |file: &str| file.lines().any(|line| line.split(':').next() == Some(name));
        if named(&self.passwd) || named(&self.group) {
            return Err(AccountError::Exists { name: name.clone() });
        }
        let uid = match user.uid {
            Some(uid) if self.is_taken(uid) => return Err(AccountError::UidTaken { name: name.clone(), uid }),
            Some(uid) => uid,
            None => (UID_FIRST..=UID_LAST)
                .find(|uid| !self.is_taken(*uid))
                .ok_or_else(|| AccountError::Full { name: name.clone() })?,
        };
        for group in &user.groups {
            self.join(name, group)?;
        }
        self.passwd += &format!("{name}:x:{uid}:{uid}:{}:{}:{}\n", user.comment, user.home, user.shell);
        self.group += &format!("{name}:x:{uid}:\n");
        if let Some(shadow) = &mut self.shadow {
            // Day 0 would mean "must change the password".
            let day = (epoch / SECONDS_PER_DAY).max(1);
            *shadow += &format!("{name}:!:{day}:0:99999:7:::\n");
        }
        if let Some(gshadow) = &mut self.gshadow {
            *gshadow += &format!("{name}:!::\n");
        }
        Ok(uid)
    }

    fn is_taken(&self, id: u32) -> bool {
        let id = id.to_string();
        let has = |file: &str| file.lines().any(|line| line.split(':').nth(2) == Some(&id));
        has(&self.passwd) || has(&self.group)
    }

    fn join(&mut self, name: &str, group: &str) -> Result<(), AccountError> {
        let is_group = |line: &str| line.split(':').next() == Some(group);
        if !self.group.lines().any(is_group) {
            return Err(AccountError::NoGroup { name: name.to_owned(), group: group.to_owned() });
        }
        for file in [Some(&mut self.group), self.gshadow.as_mut()].into_iter().flatten() {
            let join = |line: &str| match (is_group(line), line.ends_with(':')) {
                (false, _) => format!("{line}\n"),
                (true, true) => format!("{line}{name}\n"),
                (true, false) => format!("{line},{name}\n"),
            };
            *file = file.lines().map(join).collect();
        }
        Ok(())
    }

    /// The files' new contents, in the order of [`ACCOUNT_FILES`].
    pub(super) fn into_files(self) -> [Option<Vec<u8>>; 4] {
        [Some(self.passwd), Some(self.group), self.shadow, self.gshadow].map(|text| text.map(String::into_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, uid: Option<u32>, groups: &[&str]) -> User {
        User {
            name: name.to_owned(),
            uid,
            home: format!("/home/{name}"),
            shell: "/bin/sh".to_owned(),
            comment: String::new(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        }
    }

    fn debian() -> Accounts {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nfirst:x:1000:1000::/home/first:/bin/sh";
        let files = [
            passwd,
            "root:x:0:\nsudo:x:27:first\nvideo:x:44:\nfirst:x:1000:\n",
            "root:*:1:0:::::\n",
            "sudo:*::first\n",
        ];
        Accounts::parse(files.map(|file| Some(file.as_bytes().to_vec()))).unwrap()
    }

    #[test]
    fn a_user_gets_a_number_a_group_and_a_locked_password() {
        let mut accounts = debian();
        assert_eq!(accounts.add(&user("web", None, &["sudo", "video"]), 86_400 * 7).unwrap(), 1001);
        assert!(accounts.passwd.ends_with("/bin/sh\nweb:x:1001:1001::/home/web:/bin/sh\n"), "{}", accounts.passwd);
        assert!(accounts.group.contains("sudo:x:27:first,web\nvideo:x:44:web\n"), "{}", accounts.group);
        assert!(accounts.group.ends_with("web:x:1001:\n"));
        assert_eq!(accounts.shadow.as_deref(), Some("root:*:1:0:::::\nweb:!:7:0:99999:7:::\n"));
        assert_eq!(accounts.gshadow.as_deref(), Some("sudo:*::first,web\nweb:!::\n"));
    }

    #[test]
    fn a_base_without_accounts_gets_root() {
        let accounts = Accounts::parse([None, None, None, None]).unwrap();
        let [passwd, group, shadow, gshadow] = accounts.into_files();
        assert_eq!(passwd.unwrap(), b"root:x:0:0:root:/root:/bin/sh\n");
        assert_eq!(group.unwrap(), b"root:x:0:\n");
        assert_eq!((shadow, gshadow), (None, None));
    }

    #[test]
    fn users_that_cannot_be_are_refused() {
        let refusal = |user: User| debian().add(&user, 0).unwrap_err();
        assert!(matches!(refusal(user("first", None, &[])), AccountError::Exists { .. }));
        assert!(matches!(refusal(user("sudo", None, &[])), AccountError::Exists { .. }));
        assert!(matches!(refusal(user("web", Some(1000), &[])), AccountError::UidTaken { .. }));
        assert!(matches!(refusal(user("web", Some(27), &[])), AccountError::UidTaken { .. }));
        assert!(matches!(refusal(user("web", None, &["wheel"])), AccountError::NoGroup { .. }));
    }
}
