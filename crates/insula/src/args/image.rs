//! Verbs on images.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use insula_model::{ImageId, ImageName, ImageRef, ImageVersion};

/// Verbs on images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Make an image from a directory, tar archive or OCI layout
    Import(ImportArgs),
    /// Make an image from a recipe
    Build(RecipeArgs),
    /// Print the packages of an image as a lock, which a later build can be held to
    Lock(ImageRefArgs),
    /// Images
    #[command(visible_alias = "ls")]
    List(ImageListArgs),
    /// Everything about images
    #[command(visible_alias = "inspect")]
    Show(ImageRefsArgs),
    /// Check every byte of an image
    Verify(ImageRefArgs),
    /// Run an image's own checks in a container; without any its command, or a shell
    Test(ImageRefArgs),
    /// Let a tested image into production
    Promote(ImageIdArgs),
    /// Vouch for an image with this node's key, after a check of every byte
    Sign(ImageIdArgs),
    /// Keys whose signatures count on this node
    Keys,
    /// Choose the version that a name alone means
    Default(ImageDefaultArgs),
    /// What differs between two versions
    Diff(DiffArgs),
    /// What images cost and who uses them
    Usage(ImageListArgs),
    /// Remove image versions that no container needs
    #[command(visible_alias = "rm")]
    Remove(ImageIdsArgs),
    /// Remove what nothing refers to
    Gc,
    /// Write an image to a file or directory
    Export(ExportArgs),
}

/// `insula image import`
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Which image of an OCI layout that holds several
    #[arg(long, value_name = "REFERENCE")]
    pub reference: Option<String>,
    /// Image to make
    #[arg(value_name = "NAME@VERSION")]
    pub image: ImageId,
    /// Directory, tar, tar.gz, tar.zst, OCI layout directory or archive; - reads standard input
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

/// `insula image build`
#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// Want exactly the packages of NAME.lock beside the recipe, or refuse
    #[arg(long)]
    pub locked: bool,
    /// Recipe (TOML); relative paths in it start from its directory
    #[arg(value_name = "RECIPE")]
    pub recipe: PathBuf,
}

/// Images of which to speak.
#[derive(Debug, Args)]
pub struct ImageListArgs {
    /// Only these images, NAME or NAME@VERSION
    #[arg(value_name = "IMAGE")]
    pub images: Vec<ImageRef>,
}

/// One or more images to look at.
#[derive(Debug, Args)]
pub struct ImageRefsArgs {
    /// Images; without version their default versions
    #[arg(value_name = "NAME[@VERSION]", required = true)]
    pub images: Vec<ImageRef>,
}

/// One image to look at.
#[derive(Debug, Args)]
pub struct ImageRefArgs {
    /// Image; without version its default version
    #[arg(value_name = "NAME[@VERSION]")]
    pub image: ImageRef,
}

/// One or more image versions.
#[derive(Debug, Args)]
pub struct ImageIdsArgs {
    /// Image versions
    #[arg(value_name = "NAME@VERSION", required = true)]
    pub images: Vec<ImageId>,
}

/// One image version.
#[derive(Debug, Args)]
pub struct ImageIdArgs {
    /// Image version
    #[arg(value_name = "NAME@VERSION")]
    pub image: ImageId,
}

/// `insula image default`
#[derive(Debug, Args)]
pub struct ImageDefaultArgs {
    /// Image
    #[arg(value_name = "NAME")]
    pub name: ImageName,
    /// Its version
    #[arg(value_name = "VERSION")]
    pub version: ImageVersion,
}

/// `insula image diff`
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Older side
    #[arg(value_name = "FROM@VERSION")]
    pub from: ImageId,
    /// Newer side
    #[arg(value_name = "TO@VERSION")]
    pub to: ImageId,
}

/// `insula image export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Form; by default what the path looks like: a directory, or an archive named .tar, .tar.gz or .tar.zst
    #[arg(long = "as", value_enum, value_name = "FORM")]
    pub form: Option<ExportAs>,
    /// Image; without version its default version
    #[arg(value_name = "NAME[@VERSION]")]
    pub image: ImageRef,
    /// File or directory to write; - writes standard output
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

/// Forms of an exported image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportAs {
    /// The tree as a tar archive
    Tar,
    /// The same under gzip
    TarGz,
    /// The same under zstd
    TarZst,
    /// An OCI image layout directory
    OciDirectory,
    /// An OCI image layout in a tar archive
    OciArchive,
}

impl From<ExportAs> for insula_api::ExportFormat {
    fn from(form: ExportAs) -> Self {
        match form {
            ExportAs::Tar => Self::Tar,
            ExportAs::TarGz => Self::TarGz,
            ExportAs::TarZst => Self::TarZst,
            ExportAs::OciDirectory => Self::OciDirectory,
            ExportAs::OciArchive => Self::OciArchive,
        }
    }
}
