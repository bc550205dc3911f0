//! Passwords, hashed so that the monolith can still check them.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// The monolith's number of rounds; raising it is for the day when the monolith no longer reads these hashes.
const ROUNDS: u32 = 1000;

/// `pbkdf2$<rounds>$<salt>$<hex>`, with a fresh salt: PBKDF2-HMAC-SHA-256 (RFC 8018, 5.2) with one block.
pub(crate) fn hash(password: &str) -> anyhow::Result<String> {
    let mut random = [0; 12];
    getrandom::fill(&mut random)?;
    let salt = hex(&random);
    Ok(format!("pbkdf2${ROUNDS}${salt}${}", pbkdf2(password, &salt, ROUNDS)))
}

/// Whether `password` is the one that `stored` was made of.
pub(crate) fn fits(password: &str, stored: &str) -> bool {
    let fields: Vec<_> = stored.split('$').collect();
    let ["pbkdf2", rounds, salt, expected] = fields[..] else { return false };
    rounds.parse().is_ok_and(|rounds| pbkdf2(password, salt, rounds) == expected)
}

fn pbkdf2(password: &str, salt: &str, rounds: u32) -> String {
    let keyed = Hmac::<Sha256>::new_from_slice(password.as_bytes()).expect("HMAC takes keys of any length");
    let step = |message: &[u8]| -> [u8; 32] { keyed.clone().chain_update(message).finalize().into_bytes().into() };
    let mut last = step(&[salt.as_bytes(), &[0, 0, 0, 1]].concat());
    let mut sum = last;
    for _ in 1..rounds {
        last = step(&last);
        sum.iter_mut().zip(last).for_each(|(sum, byte)| *sum ^= byte);
    }
    hex(&sum)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_of_the_monolith_still_fits() {
        let seeded = "pbkdf2$1000$shop-seed$0dae3faff7f8d11936393a049c6a43ca69784a2d45ea8ef886cba51ac95f43d8";
        assert!(fits("banyan", seeded));
        assert!(!fits("Banyan", seeded));
    }

    #[test]
    fn a_hash_is_salted_and_fits_its_password_alone() {
        let hashed = hash("fig").unwrap();
        assert!(fits("fig", &hashed) && !fits("figs", &hashed));
        assert_ne!(hashed, hash("fig").unwrap());
    }
}
