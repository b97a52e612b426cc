//! Replays the fuzz corpora, seeds and findings alike, as plain tests: what a fuzzer once broke
//! stays mended without one.

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

#[test]
fn every_corpus_file_passes_its_target() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut known = Vec::new();
    for (name, target) in targets::TARGETS {
        let files: Vec<_> = fs::read_dir(corpora.join(name)).expect(name).map(|f| f.expect(name).path()).collect();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let bytes = fs::read(&file).expect("a corpus file");
            let passed = std::panic::catch_unwind(|| target(&bytes)).is_ok();
            assert!(passed, "{} fails", file.display());
        }
        known.push(name.to_owned());
    }
    for folder in fs::read_dir(&corpora).expect("corpora") {
        let name = folder.expect("a corpus").file_name().into_string().expect("a name");
        assert!(known.contains(&name), "fuzz/corpus/{name} belongs to no target");
    }
}
