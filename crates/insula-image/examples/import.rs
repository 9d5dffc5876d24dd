//! Makes an image of an archive and says how long it took: `import ARCHIVE IMAGE`.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::Instant;

use insula_image::TreeLimits;
use insula_image::archive::{KeepAll, import_tar};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(archive), Some(image)) = (arguments.next(), arguments.next()) else {
        return Err("usage: import ARCHIVE IMAGE".into());
    };
    let archive = File::open(archive)?;
    let out = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(image)?;
    let start = Instant::now();
    let imported = import_tar(archive, out, &TreeLimits::standard(), &mut KeepAll)?;
    let seconds = start.elapsed().as_secs_f64();
    let image = imported.image;
    let entries = image.tree.entries().len();
    writeln!(std::io::stdout(), "{} {} bytes {entries} entries {seconds:.3} s", image.tree.digest(), image.bytes)?;
    Ok(())
}
