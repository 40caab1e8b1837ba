//! nginx of Debian: its security update, then a configuration that it takes and that serves nothing.

use std::{fs, path::Path, time::Duration};

use anyhow::{Result, ensure};
use refit_tests::{
    http,
    lab::{Client, DebianHost, software},
    wait::until,
};

use super::{HEALTH, Product, tell};

const PROGRAM: &str = "usr/sbin/nginx";

const CONFIGURATION: &str = "
daemon off;
worker_processes 2;
pid /run/refit-nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path /tmp/nginx-body;
    proxy_temp_path /tmp/nginx-proxy;
    fastcgi_temp_path /tmp/nginx-fastcgi;
    uwsgi_temp_path /tmp/nginx-uwsgi;
    scgi_temp_path /tmp/nginx-scgi;
    server {
        listen 80;
        root @ROOT@;
    }
}
";

/// A release: nginx as Debian built it, its configuration, and a page that says which release it is.
fn fill(tree: &Path, unpacked: &Path, root: &str, page: &str) -> Result<String> {
    software::copy_into(&unpacked.join(PROGRAM), &tree.join("usr/sbin"))?;
    fs::create_dir_all(tree.join("etc"))?;
    fs::write(tree.join("etc/nginx.conf"), CONFIGURATION.replace("@ROOT@", root))?;
    fs::create_dir_all(tree.join("www"))?;
    fs::write(tree.join("www/index.html"), page)?;
    Ok(format!(
        "[[services]]\nname = \"nginx\"\n\
         command = [\"{PROGRAM}\", \"-e\", \"stderr\", \"-p\", \"./\", \"-c\", \"etc/nginx.conf\"]\n\
         {HEALTH}\n[[health.checked.checks]]\nname = \"serves\"\nkind = \"http\"\n\
         url = \"http://127.0.0.1/\"\ntimeout_seconds = 2\n"
    ))
}

fn page(host: &DebianHost) -> Result<String> {
    let (code, body) = http::get_at(host.at(80), "/", Duration::from_secs(2))?;
    ensure!(code == 200, "it answers {code}");
    Ok(body)
}

fn client(product: &Product) -> Client {
    let address = product.host.at(80);
    Client::start(move || {
        let (code, body) = http::get_at(address, "/", Duration::from_secs(2))?;
        ensure!(code == 200 && body.starts_with("release "), "{code} {body}");
        Ok(())
    })
}

#[test]
fn nginx_of_debian_takes_its_security_update_and_goes_back_from_a_configuration_that_serves_nothing()
 {
    let claim = "nginx of Debian's archive, updated and brought back under live traffic";
    let Some(product) = Product::new("nginx", "nginx", &[], claim) else { return };
    let (old, new) = (product.old.clone(), product.new.clone());
    let unpacked = |version: &str| software::unpacked("nginx", Some(version)).unwrap();

    product.release("1", |tree| fill(tree, &unpacked(&old), "www", "release 1"));
    product.until("1", "done");
    product.runs_program_of(&unpacked(&old), PROGRAM);

    let users = client(&product);
    product.release("2", |tree| fill(tree, &unpacked(&new), "www", "release 2"));
    product.until("2", "done");
    let update = users.stop().unwrap();
    tell(&format!("nginx {old} -> {new}"), &update);
    assert_eq!(page(&product.host).unwrap(), "release 2");
    product.runs_program_of(&unpacked(&new), PROGRAM);

    // `nginx -t` would find nothing wrong with it.
    let users = client(&product);
    product.release("3", |tree| fill(tree, &unpacked(&new), "wwww", "release 3"));
    product.until("3", "halted");
    until("the site is back", || Ok((page(&product.host)? == "release 2").then_some(()))).unwrap();
    let back = users.stop().unwrap();
    tell("nginx, a configuration that serves nothing, and back", &back);
    product.went_back();
    product.runs_program_of(&unpacked(&new), PROGRAM);

    for (traffic, longest) in [(update, 10), (back, 30)] {
        assert!(traffic.answered > 20, "the client was not there: {traffic}");
        assert!(traffic.longest_gap < Duration::from_secs(longest), "{traffic}");
    }
}
