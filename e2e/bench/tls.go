package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const certFile, keyFile = "leaf.crt", "leaf.key"

// makeCertificate writes a certificate of the kind that members have, and its
// key, to dir. It is its own authority: all servers of a chain show it.
func makeCertificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "leaf"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, certFile), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(filepath.Join(dir, keyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
	)
}

// leafTLS gives the leaf connections of o what a configuration file with cert_file,
// key_file, ca_file and verify gives them, and nothing else.
func leafTLS(o *server.Options, dir string) error {
	c, err := server.GenTLSConfig(&server.TLSConfigOpts{
		CertFile: filepath.Join(dir, certFile), KeyFile: filepath.Join(dir, keyFile), CaFile: filepath.Join(dir, certFile),
		Verify: true,
	})
	if err != nil {
		return err
	}
	c.RootCAs = c.ClientCAs
	const timeout = 5.0
	o.LeafNode.TLSConfig, o.LeafNode.TLSTimeout = c, timeout
	for _, r := range o.LeafNode.Remotes {
		r.TLS, r.TLSConfig, r.TLSTimeout = true, c.Clone(), timeout
	}
	return nil
}
