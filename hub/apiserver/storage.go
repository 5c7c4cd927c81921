package apiserver

import (
	"context"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
)

// storePrefix is where the objects live in the store. It must never change.
const storePrefix = "/registry/sealane"

func newStorageOptions(endpoint string) *genericoptions.EtcdOptions {
	o := genericoptions.NewEtcdOptions(storagebackend.NewDefaultConfig(storePrefix,
		apiserver.Codecs.LegacyCodec(apiextensionsv1.SchemeGroupVersion)))
	o.StorageConfig.Transport.ServerList = []string{endpoint}
	// The store does that itself, and goes on doing it when it is full.
	o.StorageConfig.CompactionInterval = 0
	// There is no garbage collector: with this on, a deletion with cascade
	// foreground or orphan would wait for one for ever.
	o.EnableGarbageCollection = false
	// The watch cache holds every object once more, and its last versions for 75
	// seconds. It pays with thousands of watchers; here there is one, the hub, which
	// has a cache itself. Without it 1,000 members that all report take a third of
	// the heap, and reads come from the store, never stale.
	o.EnableWatchCache = false
	return o
}

// withBookmarks makes watches tell now and then how far they are, if they are
// asked to, which the libraries leave to the watch cache. Without that, a watch
// that saw nothing for longer than the history goes back could not be resumed,
// and its client would have to read everything again.
type withBookmarks struct{ generic.RESTOptionsGetter }

func (g withBookmarks) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	o, err := g.RESTOptionsGetter.GetRESTOptions(resource, example)
	if err != nil {
		return o, err
	}
	plain := o.Decorator
	o.Decorator = func(
		config *storagebackend.ConfigForResource, prefix string, key func(runtime.Object) (string, error),
		newFunc, newListFunc func() runtime.Object, attrs storage.AttrFunc, trigger storage.IndexerFuncs, indexers *cache.Indexers,
	) (storage.Interface, factory.DestroyFunc, error) {
		s, destroy, err := plain(config, prefix, key, newFunc, newListFunc, attrs, trigger, indexers)
		if err != nil {
			return nil, nil, err
		}
		return bookmarkStorage{s}, destroy, nil
	}
	return o, nil
}

type bookmarkStorage struct{ storage.Interface }

func (s bookmarkStorage) Watch(ctx context.Context, key string, o storage.ListOptions) (watch.Interface, error) {
	o.ProgressNotify = o.ProgressNotify || o.Predicate.AllowWatchBookmarks
	return s.Interface.Watch(ctx, key, o)
}
