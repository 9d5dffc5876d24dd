//! CBOR forms of values whose crates know no CBOR: used through `#[cbor(with = "...")]`.

/// A container's id as a byte string of 16 bytes.
pub(crate) mod container_id {
    use insula_model::ContainerId;
    use minicbor::decode::Error as DecodeError;
    use minicbor::encode::{Error as EncodeError, Write};
    use minicbor::{Decoder, Encoder};

    pub(crate) fn encode<C, W: Write>(
        id: &ContainerId,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.bytes(id.as_uuid().as_bytes())?.ok()
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<ContainerId, DecodeError> {
        let at = d.position();
        let bytes = d.bytes()?;
        let uuid =
            uuid::Uuid::from_slice(bytes).map_err(|_| DecodeError::message("a container id has 16 bytes").at(at))?;
        Ok(ContainerId::from_uuid(uuid))
    }
}

/// The same, or null.
pub(crate) mod optional_container_id {
    use insula_model::ContainerId;
    use minicbor::data::Type;
    use minicbor::decode::Error as DecodeError;
    use minicbor::encode::{Error as EncodeError, Write};
    use minicbor::{Decoder, Encoder};

    pub(crate) fn encode<C, W: Write>(
        id: &Option<ContainerId>,
        e: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        match id {
            Some(id) => super::container_id::encode(id, e, context),
            None => e.null()?.ok(),
        }
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, context: &mut C) -> Result<Option<ContainerId>, DecodeError> {
        if d.datatype()? == Type::Null {
            d.null()?;
            return Ok(None);
        }
        super::container_id::decode(d, context).map(Some)
    }

    pub(crate) fn nil() -> Option<Option<ContainerId>> {
        Some(None)
    }

    pub(crate) fn is_nil(id: &Option<ContainerId>) -> bool {
        id.is_none()
    }
}
