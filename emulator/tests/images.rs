//! Fatbins: which PTX a device gets.

use cuda_emulator::device::{MODELS, named};
use cuda_emulator::fatbin::{FatbinError, ptx_for};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// A fatbin with entries of (kind, architecture, uncompressed size, payload), as nvcc lays it out.
fn fatbin(entries: &[(u16, u32, u64, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, architecture, uncompressed, payload) in entries {
        let mut payload = payload.as_bytes().to_vec();
        payload.push(0);
        payload.resize(payload.len().next_multiple_of(8), 0);
        let mut header = [0; 64];
        header[..2].copy_from_slice(&kind.to_le_bytes());
        header[2..4].copy_from_slice(&0x0101_u16.to_le_bytes());
        header[4..8].copy_from_slice(&64_u32.to_le_bytes());
        header[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        header[28..32].copy_from_slice(&architecture.to_le_bytes());
        header[56..].copy_from_slice(&uncompressed.to_le_bytes());
        body.extend_from_slice(&header);
        body.extend_from_slice(&payload);
    }
    let mut image = Vec::new();
    image.extend_from_slice(&0xBA55_ED50_u32.to_le_bytes());
    image.extend_from_slice(&1_u16.to_le_bytes());
    image.extend_from_slice(&16_u16.to_le_bytes());
    image.extend_from_slice(&(body.len() as u64).to_le_bytes());
    image.extend_from_slice(&body);
    image
}

#[test]
fn the_highest_ptx_that_fits_is_taken() {
    let image = fatbin(&[(1, 75, 0, "for 75"), (2, 80, 0, "machine"), (1, 80, 0, "for 80")]);
    assert_eq!(ptx_for(&image, 75).unwrap(), "for 75");
    assert_eq!(ptx_for(&image, 80).unwrap(), "for 80");
    assert_eq!(ptx_for(&image, 90).unwrap(), "for 80");
}

#[test]
fn images_without_usable_ptx_say_why() {
    let newer = fatbin(&[(1, 90, 0, "for 90")]);
    let expected = FatbinError::NoneForDevice { architecture: 75, found: vec![90] };
    assert_eq!(ptx_for(&newer, 75).unwrap_err(), expected);
    assert_eq!(ptx_for(&fatbin(&[(2, 75, 0, "x")]), 75).unwrap_err(), FatbinError::MachineCode);
    let compressed = fatbin(&[(1, 75, 1000, "x")]);
    assert_eq!(ptx_for(&compressed, 75).unwrap_err(), FatbinError::Compressed);
    let cut = &newer[..newer.len() - 1];
    assert!(matches!(ptx_for(cut, 90).unwrap_err(), FatbinError::Damaged(_)));
}

#[test]
fn compressed_ptx_is_unpacked() {
    let text = ".version 9.0\n.target sm_80\n".repeat(50);
    let frame = compress_to_vec(text.as_bytes(), CompressionLevel::Fastest);
    let entry = |frame: &[u8]| {
        let mut image = fatbin(&[(1, 80, text.len() as u64, "")]);
        // The payload and its sizes, with padding behind it.
        let padded = frame.len().next_multiple_of(8);
        image[16 + 8..16 + 16].copy_from_slice(&(padded as u64).to_le_bytes());
        image[16 + 16..16 + 20].copy_from_slice(&(frame.len() as u32).to_le_bytes());
        image.truncate(16 + 64);
        image.extend_from_slice(frame);
        image.resize(16 + 64 + padded, 0);
        image
    };
    assert_eq!(ptx_for(&entry(&frame), 80).unwrap(), text);
    let mut spoiled = frame.clone();
    spoiled.truncate(frame.len() / 2);
    assert!(matches!(ptx_for(&entry(&spoiled), 80).unwrap_err(), FatbinError::Damaged(_)));
    spoiled[0] ^= 1;
    assert_eq!(ptx_for(&entry(&spoiled), 80).unwrap_err(), FatbinError::Compressed);
}

#[test]
fn models_are_found_by_name() {
    for model in &MODELS {
        assert_eq!(named(&format!("sm_{}", model.architecture)), Some(model));
    }
    assert_eq!(named("sm_1"), None);
    let h100 = named("sm_90").unwrap();
    assert_eq!(h100.shared_per_block_opt_in, 232_448);
    assert_eq!(h100.resident_blocks(1024, 0, None), 2);
    assert_eq!(h100.resident_blocks(128, 100 << 10, None), 2);
    assert_eq!(h100.resident_blocks(2048, 0, None), 0);
}
