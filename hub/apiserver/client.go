package apiserver

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// ownConfig is the hub's own way into its API. Its key is never written, and the
// certificate ends with the authority: a hub may run for years, while what lies
// on disk is renewed.
func ownConfig(c *certificates) (*rest.Config, error) {
	pair, err := c.pki.client("sealane-hub", caLife)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            c.url,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.pki.caPEM, CertData: pair.cert, KeyData: pair.key},
		QPS:             -1,
	}, nil
}

func unversioned(cfg *rest.Config) *rest.Config {
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(runtime.NewScheme()).WithoutConversion()
	return cfg
}
