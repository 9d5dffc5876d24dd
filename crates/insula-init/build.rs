//! Links process 1 to fixed addresses where it is linked statically: as a position-independent program it begins with
//! writing 2,000 addresses into 27 pages, each a page fault, at every start of a container.
#![allow(clippy::print_stdout, reason = "how a build script speaks")]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "crt-static") {
        // Behind the compiler's own `-static-pie`; the last one counts.
        println!("cargo::rustc-link-arg-bin=insula-init=-static");
        println!("cargo::rustc-link-arg-bin=insula-init=-no-pie");
    }
}
