//! The one place that names the wire encoder.
//!
//! Frames are a 32-bit big-endian length and that many bytes of bincode (variable-length integers, no trailing
//! bytes). The length is checked against the cap of the stream's kind before anything is read or allocated.

use bincode::Options;
use serde::{Serialize, de::DeserializeOwned};

/// Bytes of the length before each frame.
pub const LENGTH_BYTES: usize = 4;

/// Bytes that cannot be decoded, or a value that cannot be encoded within its cap.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A frame longer than its kind may have.
    #[error("frame of {size} bytes, {cap} are allowed")]
    TooLarge {
        /// Bytes found or needed.
        size: u64,
        /// Bytes allowed.
        cap: u64,
    },
    /// Bytes that are not the expected value.
    #[error("malformed frame")]
    Malformed(#[source] bincode::Error),
}

fn options(cap: u64) -> impl Options {
    bincode::DefaultOptions::new().with_limit(cap).reject_trailing_bytes()
}

/// The bytes of `value`, without a length before them. Errors: larger than `cap` bytes.
pub fn encode<T: Serialize + ?Sized>(value: &T, cap: u64) -> Result<Vec<u8>, CodecError> {
    options(cap).serialize(value).map_err(|error| {
        if matches!(*error, bincode::ErrorKind::SizeLimit) {
            return CodecError::TooLarge { size: cap.saturating_add(1), cap };
        }
        CodecError::Malformed(error)
    })
}

/// How many bytes [`encode`] makes of `value`; 0 for what it cannot encode.
pub fn size<T: Serialize + ?Sized>(value: &T) -> u64 {
    options(u64::MAX).serialized_size(value).unwrap_or_default()
}

/// The bytes of `value` with their length before them, ready to be written. Errors: larger than `cap` bytes.
pub fn frame<T: Serialize + ?Sized>(value: &T, cap: u64) -> Result<Vec<u8>, CodecError> {
    let body = encode(value, cap)?;
    let size = u32::try_from(body.len())
        .map_err(|_| CodecError::TooLarge { size: body.len() as u64, cap: u64::from(u32::MAX) })?;
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + body.len());
    bytes.extend_from_slice(&size.to_be_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The size that a frame announces. Errors: more than `cap`, so that nothing is allocated for it.
pub fn frame_size(length: [u8; LENGTH_BYTES], cap: u64) -> Result<usize, CodecError> {
    let size = u32::from_be_bytes(length);
    if u64::from(size) > cap {
        return Err(CodecError::TooLarge { size: u64::from(size), cap });
    }
    Ok(size as usize)
}

/// The value in `bytes`, which must be exactly one. Errors: anything else.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], cap: u64) -> Result<T, CodecError> {
    if bytes.len() as u64 > cap {
        return Err(CodecError::TooLarge { size: bytes.len() as u64, cap });
    }
    options(cap).deserialize(bytes).map_err(CodecError::Malformed)
}

/// For `#[serde(with = "codec::spec")]`: plain in JSON, and inside bincode one JSON text.
///
/// bincode writes fields by position, so a new field would make old bytes unreadable. Specs grow with every
/// release; as JSON inside the binary envelope they may gain fields without a new version of everything around them.
pub mod spec {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

    /// Writes `value` as itself or as JSON text.
    pub fn serialize<T: Serialize, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return value.serialize(serializer);
        }
        let text = serde_json::to_string(value).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(&text)
    }

    /// Reads what [`serialize`] wrote.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: DeserializeOwned,
        D: Deserializer<'de>,
    {
        if deserializer.is_human_readable() {
            return T::deserialize(deserializer);
        }
        let text = String::deserialize(deserializer)?;
        serde_json::from_str(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_capped_before_they_are_read() {
        let framed = frame(&vec![7_u8; 10], 64).expect("fits");
        let (length, body) = framed.split_at(LENGTH_BYTES);
        let length: [u8; LENGTH_BYTES] = length.try_into().expect("four bytes");
        assert_eq!(frame_size(length, 64).expect("fits"), body.len());
        assert!(matches!(frame_size(length, 4), Err(CodecError::TooLarge { .. })));
        assert_eq!(decode::<Vec<u8>>(body, 64).expect("decodes"), vec![7; 10]);
        assert!(decode::<Vec<u8>>(&body[..5], 64).is_err());
        assert!(encode(&vec![0_u8; 100], 10).is_err());
    }
}
