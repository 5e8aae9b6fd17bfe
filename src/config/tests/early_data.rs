//! Early data needs TLS over TCP, and resumption.

use super::*;

#[test]
fn early_data_without_tls_over_tcp_is_refused() {
    for more in ["tls = false\n", "protocols = [\"h3\"]\n"] {
        let listener = format!("{more}early_data = \"safe-methods\"\naddress = [");
        let errors = parse_here(&minimal_with("address = [", &listener)).unwrap_err().to_string();
        assert!(errors.contains("listeners[0].early_data"), "{errors}");
        assert!(errors.contains("over QUIC is always refused"), "{errors}");
    }
}

#[test]
fn early_data_beside_client_certificates_is_refused() {
    let auth = "tls.client_auth = { mode = \"optional\", ca = \"clients.pem\" }\n";
    let with = |more: &str| {
        let listener = format!("{more}early_data = \"safe-methods\"\naddress = [");
        parse_here(&minimal_with("address = [", &listener))
    };
    let errors = with(auth).unwrap_err().to_string();
    assert!(errors.contains("has no place beside tls.client_auth"), "{errors}");
    assert_eq!(with("").unwrap().0.listeners[0].early_data, EarlyData::SafeMethods);
}
