//go:build !noapiserver

package hub

import (
	"context"
	"fmt"

	"k8s.io/client-go/rest"

	"github.com/sealane/sealane/hub/apiserver"
)

// startOwnAPI starts the API server that is built in.
func (o *Options) startOwnAPI(ctx context.Context, parts *stack, where *Addresses) (*rest.Config, error) {
	api, err := apiserver.Start(context.WithoutCancel(ctx), apiserver.Options{DataDir: o.DataDir, Listen: o.APIListen, Kinds: true, Log: o.Log})
	if err != nil {
		return nil, fmt.Errorf("the embedded API server (--data %s, --api-listen %s): %w", o.DataDir, o.APIListen, err)
	}
	parts.start("embedded API server", func(ctx context.Context) error {
		stopped := make(chan error, 1)
		go func() { stopped <- api.Wait() }()
		select {
		case err := <-stopped:
			return err
		case <-ctx.Done():
			return api.Close()
		}
	})
	cfg := api.RESTConfig()
	cfg.QPS = -1 // it is ours alone
	where.API, where.Kubeconfig = cfg.Host, api.KubeconfigPath()
	return cfg, nil
}
