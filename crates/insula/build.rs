//! Links the program to fixed addresses where it is linked statically: as a position-independent one it would begin
//! with writing 27,000 addresses into 120 pages, each a page fault, which is a fifth of what a client costs.
#![allow(clippy::print_stdout, reason = "how a build script speaks")]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "crt-static") {
        // Behind the compiler's own `-static-pie`; the last one counts.
        println!("cargo::rustc-link-arg-bin=insula=-static");
        println!("cargo::rustc-link-arg-bin=insula=-no-pie");
    }
}
