//! The command line of a bench. The runner starts itself again in other roles, such as the load generator, so that each
//! is a process of its own whose CPU time can be told apart.

use super::Result;
use std::process::ExitCode;
use std::str::FromStr;

/// What is run with the arguments of a bench, or with those behind the name of a role.
pub type Run = fn(&[String]) -> Result<()>;

/// The `main` of a bench: one of its roles, the options, or the bench itself.
pub fn main(name: &str, usage: &str, roles: &[(&str, Run)], bench: Run) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|a| a == flag);
    let ended = match roles.iter().find(|(role, _)| args.first().is_some_and(|first| first == role)) {
        Some((_, run)) => run(&args[1..]),
        None if has("--help") || has("-h") => {
            println!("{usage}");
            Ok(())
        }
        None => {
            if is_smoke(&args) {
                println!("A smoke run: that it works; the figures mean nothing.");
            }
            bench(&args)
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name} bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether it is to be seen only that the bench works. Also without the `--bench` that `cargo bench` adds, as under
/// `cargo test --benches`.
pub fn is_smoke(args: &[String]) -> bool {
    let has = |flag: &str| args.iter().any(|a| a == flag);
    has("--smoke") || !has("--bench")
}

/// The options, one after the other; `--bench` and `--smoke` are passed over.
#[derive(Debug)]
pub struct Flags<'a> {
    rest: std::slice::Iter<'a, String>,
    flag: &'a str,
}

impl<'a> Flags<'a> {
    /// Those of `args`.
    pub fn new(args: &'a [String]) -> Self {
        Self { rest: args.iter(), flag: "" }
    }

    /// The next one.
    pub fn next(&mut self) -> Option<&'a str> {
        self.flag = self.rest.find(|flag| !matches!(flag.as_str(), "--bench" | "--smoke"))?;
        Some(self.flag)
    }

    /// The value behind it.
    pub fn value<T: FromStr>(&mut self) -> Result<T> {
        let text = self.rest.next().ok_or_else(|| format!("{} needs a value; see --help", self.flag))?;
        self.read(text)
    }

    /// The values behind it, with commas between them.
    pub fn values<T: FromStr>(&mut self) -> Result<Vec<T>> {
        self.value::<String>()?.split(',').map(|item| self.read(item)).collect()
    }

    /// That there is no such option.
    pub fn unknown<T>(&self) -> Result<T> {
        Err(format!("unknown option {}; see --help", self.flag).into())
    }

    fn read<T: FromStr>(&self, text: &str) -> Result<T> {
        text.parse().map_err(|_| format!("{}: bad value {text:?}; see --help", self.flag).into())
    }
}
