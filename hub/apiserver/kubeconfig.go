package apiserver

import (
	"crypto/x509"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// contextName names the cluster, the user and the context in a kubeconfig.
const contextName = "sealane"

// writeKubeconfig makes sure that the file at path gives its reader all rights at
// the API at url. The certificate in it is kept while it fits, so that a restart
// changes nothing.
func (p *pki) writeKubeconfig(path, url string) error {
	pair, ok := p.readKubeconfig(path, url)
	if ok {
		return nil
	}
	if pair == nil {
		fresh, err := p.client("sealane-admin", certLife)
		if err != nil {
			return err
		}
		pair = &fresh
	}
	b, err := clientcmd.Write(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{
			contextName: {Server: url, CertificateAuthorityData: p.caPEM},
		},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{
			contextName: {ClientCertificateData: pair.cert, ClientKeyData: pair.key},
		},
		Contexts: map[string]*clientcmdapi.Context{
			contextName: {Cluster: contextName, AuthInfo: contextName, Namespace: "default"},
		},
		CurrentContext: contextName,
	})
	if err != nil {
		return err
	}
	return writeFile(path, b)
}

// readKubeconfig returns the client certificate in the file if that one still
// fits, and whether the file as a whole does. A file that cannot be read is
// simply replaced.
func (p *pki) readKubeconfig(path, url string) (pair *keyPair, ok bool) {
	cfg, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return nil, false
	}
	auth, cluster := cfg.AuthInfos[contextName], cfg.Clusters[contextName]
	if auth == nil || cluster == nil {
		return nil, false
	}
	found := keyPair{auth.ClientCertificateData, auth.ClientKeyData}
	if !p.fits(found, x509.ExtKeyUsageClientAuth, nil) {
		return nil, false
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		return &found, false
	}
	return &found, cluster.Server == url && string(cluster.CertificateAuthorityData) == string(p.caPEM)
}
