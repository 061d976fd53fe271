//! Fatbins: which PTX a device gets, and how often it is decoded.

mod common;

use std::sync::Arc;

use common::{HEADER, kernel};
use cuda_emulator::context::Context;
use cuda_emulator::device::{MODELS, named};
use cuda_emulator::fatbin::{Code, FatbinError, image_for, ptx_for, registers_of};
use cuda_emulator::settings::{Approximation, Choice, Settings};
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
    let built_before = Code { architecture: 90, newest: 75 };
    assert_eq!(ptx_for(&image, built_before).unwrap(), "for 75");
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
    // An entry of no bytes at all leads nowhere.
    let mut empty = fatbin(&[]);
    empty.extend_from_slice(&[0; 128]);
    assert!(matches!(ptx_for(&empty, 90).unwrap_err(), FatbinError::Damaged(_)));
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

/// An ELF image with one symbol, `k`, and so many registers in `.nv.info`, behind another attribute.
fn cubin(registers: u32) -> Vec<u8> {
    let names = b"\0.nv.info\0";
    let strings = b"\0k\0";
    let mut symbols = vec![0; 48];
    symbols[24] = 1;
    // A half-word attribute without a length, then the registers of symbol 1.
    let mut info = vec![0x03, 0x1B, 0xFF, 0x00, 0x04, 0x2F, 8, 0];
    info.extend([1_u32, registers].iter().flat_map(|word| word.to_le_bytes()));
    // Name, type and link of each section, and its content. Section 0 is none.
    let sections: [(u32, u32, u32, &[u8]); 5] = [
        (0, 0, 0, &[]),
        (0, 3, 0, names),
        (0, 3, 0, strings),
        (0, 2, 2, &symbols),
        (1, 0, 0, &info),
    ];
    let mut image = vec![0; 64];
    image[..4].copy_from_slice(b"\x7FELF");
    let mut headers = Vec::new();
    for (name, kind, link, content) in sections {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&(image.len() as u64).to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(content.len() as u64).to_le_bytes());
        header[0x28..0x2C].copy_from_slice(&link.to_le_bytes());
        headers.extend_from_slice(&header);
        image.extend_from_slice(content);
    }
    let at = image.len() as u64;
    image[0x28..0x30].copy_from_slice(&at.to_le_bytes());
    for (at, value) in [(0x3A, 64_u16), (0x3C, 5), (0x3E, 1)] {
        image[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    image.extend_from_slice(&headers);
    image
}

#[test]
fn registers_are_those_of_the_nearest_machine_code() {
    let of_entry = |architecture: u32, registers: u32| {
        let content = cubin(registers);
        let mut entry = [0; 64];
        entry[..2].copy_from_slice(&2_u16.to_le_bytes());
        entry[4..8].copy_from_slice(&64_u32.to_le_bytes());
        entry[8..16].copy_from_slice(&(content.len() as u64).to_le_bytes());
        entry[28..32].copy_from_slice(&architecture.to_le_bytes());
        [entry.to_vec(), content].concat()
    };
    let mut image = fatbin(&[(1, 75, 0, "text")]);
    for (architecture, registers) in [(80, 40), (86, 41), (89, 42), (90, 43)] {
        image.extend(of_entry(architecture, registers));
    }
    let registers =
        |architecture| image_for(&image, architecture).unwrap().registers.get("k").copied();
    // Machine code runs on its own generation, from its own minor version on.
    assert_eq!(registers(75), None);
    assert_eq!(registers(80), Some(40));
    assert_eq!(registers(87), Some(41));
    assert_eq!(registers(90), Some(43));
    assert_eq!(image_for(&image, 90).unwrap().ptx, "text");
    // A damaged cubin is no reason not to run the PTX.
    let whole = cubin(40);
    for end in 0..whole.len() - 64 {
        assert_eq!(registers_of(&whole[..end]), None, "{end}");
    }
}

#[test]
fn registers_limit_residency_as_the_occupancy_calculator_has_it() {
    let h100 = named("sm_90").unwrap();
    // 32 registers: 1024 a warp, 64 warps. 33: 1280 a warp after rounding, 12 warps a scheduler.
    assert_eq!(h100.resident_blocks(256, 0, Some(32)), 8);
    assert_eq!(h100.resident_blocks(256, 0, Some(33)), 6);
    assert_eq!(h100.resident_blocks(1024, 0, Some(64)), 1);
    assert_eq!(h100.resident_blocks(1024, 0, Some(65)), 0);
    assert_eq!(h100.resident_blocks(32, 0, Some(255)), 8);
    assert_eq!(h100.resident_blocks(32, 0, Some(256)), 0);
    // 2304 a warp: 7 for each of 4 schedulers, 28 in all, in blocks of 5 warps, checked as if of 8.
    assert_eq!(h100.resident_blocks(160, 0, Some(72)), 5);
}

#[test]
fn an_image_is_decoded_once_for_what_may_share_it() {
    let image = |ptx: &str| format!("{HEADER}{ptx}{}", kernel("")).into_bytes();
    let shared = |a: &Context, b: &Context, image: &[u8]| {
        let of =
            |context: &Context| context.load_bytes(image).unwrap().kernel("k").unwrap().unwrap();
        Arc::ptr_eq(&of(a), &of(b))
    };
    let (one, other) = (Context::new(Settings::default()), Context::new(Settings::default()));
    let plain = image("");
    assert!(shared(&one, &one, &plain) && shared(&one, &other, &plain));
    // For another device, or with other `.approx` instructions.
    let ampere = Settings { model: named("sm_80").unwrap(), ..Settings::default() };
    assert!(!shared(&one, &Context::new(ampere), &plain));
    let approximation = Approximation::Perturbed(Choice::Least);
    let perturbed = Settings { approximation, ..Settings::default() };
    assert!(!shared(&one, &Context::new(perturbed), &plain));
    // A variable's address is in the code.
    let own = image(".global .align 4 .u32 counter = 7;\n");
    assert!(!shared(&one, &one, &own) && !shared(&one, &other, &own));
    // Of the same length, with another name.
    let mut changed = plain.clone();
    let name = changed.windows(3).position(|bytes| bytes == b" k(").unwrap() + 1;
    changed[name] = b'j';
    assert!(one.load_bytes(&changed).unwrap().kernel("k").is_err());
}
