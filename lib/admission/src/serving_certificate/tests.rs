use super::*;

const NAME: &str = "linnet-injector.linnet-system.svc";

fn start() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
}

#[test]
fn new_material_needs_nothing_until_half_of_its_life() {
    let now = start();
    let material = Material::create(NAME, now).unwrap();
    assert_eq!(plan(None, NAME, now), Step::Create);
    for days in [0, 1, 14] {
        assert_eq!(
            plan(Some(&material), NAME, now + Duration::days(days)),
            Step::Keep
        );
    }
    assert_eq!(
        plan(Some(&material), NAME, now + Duration::days(16)),
        Step::RenewServing
    );
    assert_eq!(plan(Some(&material), "other.svc", now), Step::RenewServing);
}

#[test]
fn a_new_serving_certificate_keeps_the_bundle() {
    let later = start() + Duration::days(16);
    let old = Material::create(NAME, start()).unwrap();
    let new = old.with_new_serving(NAME, later).unwrap();
    assert_eq!(new.bundle(), old.bundle());
    assert!(new.not_after() > old.not_after());
    assert_eq!(plan(Some(&new), NAME, later), Step::Keep);
}

#[test]
fn a_new_authority_is_published_before_it_signs() {
    let due = start() + Duration::days(183);
    let material = Material::create(NAME, start()).unwrap();
    // Both are due: first what the known authority can sign.
    assert_eq!(plan(Some(&material), NAME, due), Step::RenewServing);
    let material = material.with_new_serving(NAME, due).unwrap();
    assert_eq!(plan(Some(&material), NAME, due), Step::RenewAuthority);

    let both = material.with_new_authority(due).unwrap();
    assert_eq!(
        split_pem(both.bundle()).unwrap().len(),
        2,
        "old and new are trusted"
    );
    assert_eq!(both.serving, material.serving, "the old one still signs");
    assert_eq!(
        plan(Some(&both), NAME, due + Duration::minutes(9)),
        Step::Keep
    );
    let published = due + Duration::minutes(11);
    assert_eq!(plan(Some(&both), NAME, published), Step::RenewServing);
    let signed = both.with_new_serving(NAME, published).unwrap();
    assert_eq!(signed.serving.issuer, signed.newest_authority.subject);
    assert_eq!(plan(Some(&signed), NAME, published), Step::Keep);
}

#[test]
fn after_a_long_sleep_all_is_renewed() {
    let late = start() + Duration::days(800);
    let material = Material::create(NAME, start()).unwrap();
    assert_eq!(plan(Some(&material), NAME, late), Step::RenewAuthority);
    let material = material.with_new_authority(late).unwrap();
    assert_eq!(
        split_pem(material.bundle()).unwrap().len(),
        1,
        "the expired one is gone"
    );
    assert_eq!(plan(Some(&material), NAME, late), Step::RenewServing);
}

#[test]
fn a_secret_reads_back() {
    let material = Material::create(NAME, start()).unwrap();
    let read = Material::from_data(&material.to_data()).unwrap();
    assert_eq!(read.to_data(), material.to_data());
    assert_eq!(read.serving, material.serving);
}

#[test]
fn a_secret_that_does_not_fit_together_is_unusable() {
    let (one, two) = (
        Material::create(NAME, start()).unwrap(),
        Material::create(NAME, start()).unwrap(),
    );
    let members = [
        key::AUTHORITIES,
        key::AUTHORITY_KEY,
        key::CERTIFICATE,
        key::CERTIFICATE_KEY,
    ];
    for member in members {
        let mut data = one.to_data();
        data.insert(member.to_owned(), two.to_data()[member].clone());
        assert!(Material::from_data(&data).is_err(), "another's {member}");
        data.insert(member.to_owned(), ByteString(b"garbage".to_vec()));
        assert!(Material::from_data(&data).is_err(), "garbage in {member}");
        data.remove(member);
        let error = Material::from_data(&data).unwrap_err();
        assert!(error.to_string().contains(member), "{error}");
    }
}

#[test]
fn private_keys_stay_out_of_debug_output() {
    let material = Material::create(NAME, start()).unwrap();
    assert!(!format!("{material:?}").contains("PRIVATE"));
}
