//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;

use crate::warehouse::Shape;

const EXAMPLES: &str = "\
Examples:
  # After each change of images.yaml or of a Dockerfile (instead of ./tool.py)
  cd image-factory && image-factory sync

  # The manifests for Kargo (instead of cdk8s synth)
  image-factory synth --out dist && kubectl apply -f dist/

  # Ask the registries which images moved, and see what is to be rebuilt
  image-factory sync --resolve && image-factory plan

Exit codes: 0 fine, 1 a problem was found (one line each says where), 2 wrong usage.
";

/// Keeps track of the images that we build and of the images that they are built on.
#[derive(Debug, Parser)]
#[command(name = "image-factory", version, after_help = EXAMPLES, args_override_self = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring the state files up to date with images.yaml and the Dockerfiles.
    #[command(args_override_self = true)]
    Sync(SyncArgs),
    /// Write the Kargo Warehouses of the images that we watch and do not build.
    #[command(args_override_self = true)]
    Synth(SynthArgs),
    /// Show which images have to be rebuilt, when and why.
    #[command(args_override_self = true)]
    Plan(PlanArgs),
    /// Look for mistakes in images.yaml, the state files and the Dockerfiles.
    #[command(args_override_self = true)]
    Check(CheckArgs),
}

/// What all commands take.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// The folder with images.yaml and state/.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub dir: PathBuf,

    /// Where the paths of Dockerfiles begin. [default: the folder above --dir]
    #[arg(long, value_name = "FOLDER")]
    pub root: Option<PathBuf>,

    /// Write nothing; print what would be written as a diff.
    #[arg(long)]
    pub dry_run: bool,

    /// The moment to work for, in RFC 3339. [default: now]
    #[arg(long, value_name = "TIME")]
    pub now: Option<Timestamp>,
}

/// Flags of `sync`.
#[derive(Args, Clone, Debug)]
pub struct SyncArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,

    /// Ask the registries what each tag names now: one HEAD an image.
    #[arg(long)]
    pub resolve: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub registries: RegistryArgs,
}

/// How registries are reached.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Registries")]
pub struct RegistryArgs {
    /// The folder of docker's config.json with the logins. [default: .docker in your home]
    #[arg(
        long,
        value_name = "FOLDER",
        env = "DOCKER_CONFIG",
        requires = "resolve"
    )]
    pub docker_config: Option<PathBuf>,

    /// A registry without TLS, as host or host:port. May be given several times.
    #[arg(long, value_name = "HOST", requires = "resolve")]
    pub plain_http: Vec<String>,

    /// Certificates (PEM) of authorities to trust beside the system's.
    #[arg(long, value_name = "FILE", requires = "resolve")]
    pub ca_file: Option<PathBuf>,
}

/// Flags of `synth`.
#[derive(Args, Clone, Debug)]
pub struct SynthArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,

    /// The folder that the manifests go to.
    #[arg(long, value_name = "FOLDER", default_value = "dist")]
    pub out: PathBuf,

    /// The namespace of the manifests.
    #[arg(long, value_name = "NAME", default_value = "image-factory-kargo")]
    pub namespace: String,

    /// The fields that your Kargo knows: 1.11 for 1.11 and later.
    #[arg(long, value_enum, default_value_t = Kargo::V1alpha1)]
    pub kargo: Kargo,

    /// What to write.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "warehouse")]
    pub emit: Vec<Emit>,
}

/// Fields of a Warehouse by the version of Kargo.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Kargo {
    /// Kargo before 1.11.
    #[value(name = "v1alpha1")]
    V1alpha1,
    /// Kargo 1.11 and later.
    #[value(name = "1.11")]
    Current,
}

impl From<Kargo> for Shape {
    fn from(kargo: Kargo) -> Self {
        match kargo {
            Kargo::V1alpha1 => Self::V1alpha1,
            Kargo::Current => Self::Current,
        }
    }
}

/// Kinds of manifests. A kind that is added here gets its arm in `run::synth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    /// Kargo Warehouses.
    Warehouse,
}

/// Flags of `plan`.
#[derive(Args, Clone, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,

    /// Record that this image is to be rebuilt without waiting.
    #[arg(long, value_name = "IMAGE", requires = "reason")]
    pub bypass: Option<String>,

    /// Why, for those who read the state later.
    #[arg(long, value_name = "TEXT", requires = "bypass")]
    pub reason: Option<String>,

    /// How the plan is written.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// Flags of `check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,

    /// How the findings are written.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// How a result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}
