//! Schemas of the types that are text on the wire, for the OpenAPI document.

use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

macro_rules! text_schema {
    ($($type:ident: $example:literal, $description:literal;)*) => {
        $(
            impl PartialSchema for crate::$type {
                fn schema() -> RefOr<Schema> {
                    ObjectBuilder::new()
                        .schema_type(Type::String)
                        .description(Some($description))
                        .examples([$example])
                        .into()
                }
            }

            impl ToSchema for crate::$type {}
        )*
    };
}

text_schema! {
    ContainerId: "0b7ad0a1-3a5a-4c7f-9a55-6a6d4c1f8f10", "UUID of a container";
    CpuLimit: "1.5", "processors, 0.01 to 4096, at most three decimals";
    ImageId: "debian@12", "image and version";
    ImageRef: "debian", "image, and perhaps `@` and a version";
    PublishedPort: "127.0.0.1:8080:80", "`[IP:]HOST:CONTAINER[/udp]`";
    PublicKey: "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "public Ed25519 key";
    RestartPolicy: "on-failure:5", "`no`, `always`, `on-failure` or `on-failure:COUNT`";
    Sha256Digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "SHA-256 digest";
    Signal: "SIGTERM", "a signal by name or number";
    VolumeMount: "/srv/site:/www:ro", "`SRC:DST[:ro]`";
    ContainerName: "web-1", "`[a-z0-9][a-z0-9_.-]*`, 63 bytes at most";
    ImageName: "debian", "`[a-z0-9][a-z0-9_.-]*`, 63 bytes at most";
    ImageVersion: "12", "`[a-z0-9][a-z0-9_.-]*`, 63 bytes at most";
    TemplateName: "small", "`[a-z0-9][a-z0-9_.-]*`, 63 bytes at most";
    NodeName: "insula", "`[a-z0-9][a-z0-9_.-]*`, 63 bytes at most";
}
