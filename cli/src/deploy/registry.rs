//! Which registry an image comes from, and the names that Docker's configuration has for registries.

/// Docker Hub, as images name it by naming none.
pub(super) const HUB: &str = "docker.io";
/// Docker Hub, as Docker's configuration and its helpers name it.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// The registry of an image: what stands before the first `/`, if that can be a host.
pub(super) fn of_image(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => hub_or(host),
        Some(_) | None => HUB,
    }
}

/// The registry that a key of the configuration means: `https://registry.example.com/v2/` and its like.
pub(super) fn of_key(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    hub_or(rest.split('/').next().unwrap_or(rest))
}

/// The key that helpers know a registry by.
pub(super) fn helper_key(registry: &str) -> &str {
    if registry == HUB { HUB_KEY } else { registry }
}

fn hub_or(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => HUB,
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_name_their_registry() {
        for (image, registry) in [
            ("nginx", "docker.io"),
            ("library/nginx:1.27", "docker.io"),
            ("index.docker.io/library/nginx", "docker.io"),
            ("ghcr.io/acme/shop@sha256:00", "ghcr.io"),
            ("registry:5000/shop", "registry:5000"),
            ("localhost/shop", "localhost"),
        ] {
            assert_eq!(of_image(image), registry, "{image}");
        }
    }

    #[test]
    fn keys_name_their_registry() {
        for (key, registry) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("ghcr.io", "ghcr.io"),
            ("https://registry.example.com:5000/v2/", "registry.example.com:5000"),
        ] {
            assert_eq!(of_key(key), registry, "{key}");
        }
        assert_eq!(helper_key("docker.io"), "https://index.docker.io/v1/");
    }
}
